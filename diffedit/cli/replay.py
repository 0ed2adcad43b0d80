"""`replay`: repeat the edit that a picture keeps, and compare."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffedit.cli import options as o
from diffedit.cli import output
from diffedit.cli.errors import UsageError, say
from diffedit.cli.options import ModelOptions
from diffedit.cli.runner import Targets, run
from diffedit.cli.session import default_output, read_picture
from diffedit.request import EditRequest

if TYPE_CHECKING:
    from PIL.Image import Image


def replay(
    edited: o.EditOutputs,
    image: o.Image,
    any_input: o.AnyInput = False,
    model: o.Model = None,
    variant: o.Variant = None,
    revision: o.Revision = None,
    engines: o.Engines = None,
    backend: o.Backend = "auto",
    dtype: o.DType = None,
    device: o.Device = None,
    size: o.NetSize = None,
    compile: o.Compile = False,
    pin_batch_size: o.Pin = None,
    out: o.Out = None,
    mask_out: o.MaskOut = None,
    heatmap_out: o.HeatmapOut = None,
    panel: o.Panel = None,
    force: o.Force = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Repeat the edit that a PNG of `edit` keeps, and say whether the same picture comes out.

    Writes EDITED's name with .replay.png beside it unless -o names another file.
    """
    given = dict(locals())
    targets = Targets.of(given, out or default_output(str(edited), "replay"))
    record = output.read_record(edited)
    photo = read_picture(image)
    if output.digest(photo) != record["input"]:
        if not any_input:
            raise UsageError(
                f"{image} is not the picture that {edited} was made from (its pixels differ); name "
                "that one, or add --any-input to apply the same edit to this one."
            )
        say(f"warning: {image} is not the picture that {edited} was made from.")
    kept = record.get("mask")
    request = EditRequest.from_parameters(photo, record["parameters"])
    if kept is not None:
        from diffedit.imaging import decode

        request = replace(request, mask_image=decode.load_mask(output.unpacked(kept), photo.size))
    options = ModelOptions.of({**given, "size": size or _recorded_size(record, any_input)})
    result = run(request, photo, options, targets)
    if not quiet:
        say(_compared(edited, result.image, record, any_input))


def _recorded_size(record: dict[str, Any], any_input: bool) -> str | None:
    sides = record.get("size")
    known = isinstance(sides, list) and len(sides) == 2 and not any_input
    return f"{sides[0]}x{sides[1]}" if known and sides else None


def _compared(edited: Path, image: Image, record: dict[str, Any], any_input: bool) -> str:
    """Whether the picture came out as it was."""
    if any_input:
        return "done; another input, so there is nothing to compare."
    from PIL import ImageChops

    before = read_picture(str(edited))
    if before.size != image.size:
        return f"differs from {edited}: it has another size."
    extremes: Any = ImageChops.difference(before, image).getextrema()
    most = max(high for _, high in extremes)
    if most == 0:
        return f"identical to {edited}, every pixel."
    made = f"{record.get('model')} on {record.get('backend')}"
    return f"differs from {edited} by at most {most} of 255; it was made with {made}."
