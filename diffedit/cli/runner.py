"""One edit from an opened picture to its files: run it, encode, write, and say what was done."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffedit
from diffedit.cli import output
from diffedit.cli.errors import UsageError, say
from diffedit.cli.options import ModelOptions
from diffedit.cli.progress import STAGES, Progress
from diffedit.cli.session import overlay, pipeline
from diffedit.request import MASKED_METHODS, EditRequest, parameters
from diffedit.result import EditResult

if TYPE_CHECKING:
    from PIL.Image import Image

    from diffedit.pipeline import DiffEditPipeline


@dataclass(frozen=True)
class Targets:
    """Where the answers of one edit go; None where one is not wanted, out "-" for stdout."""

    out: str
    mask: Path | None
    heatmap: Path | None
    panel: Path | None
    force: bool
    as_json: bool
    quiet: bool

    @classmethod
    def of(cls, given: Mapping[str, Any], out: str) -> Targets:
        """From a command's arguments, by name; UsageError where they contradict each other."""
        if out == "-" and given["as_json"]:
            raise UsageError("--json and the picture cannot share standard output; name a file.")
        targets = cls(
            out=out,
            mask=given.get("mask_out"),
            heatmap=given.get("heatmap_out"),
            panel=given.get("panel"),
            force=given["force"],
            as_json=given["as_json"],
            quiet=given["quiet"],
        )
        for path in targets.files:
            if not (path == targets.heatmap and path.suffix == ".npy"):
                output.check_format(path)
        return targets

    @property
    def files(self) -> list[Path]:
        main = [] if self.out == "-" else [Path(self.out)]
        return [*main, *(p for p in (self.mask, self.heatmap, self.panel) if p is not None)]


def run(request: EditRequest, photo: Image, options: ModelOptions, targets: Targets) -> EditResult:
    """Edit, write every file, and say what was done. The request's mask is read already."""
    with output.Outputs(force=targets.force) as files:
        for path in targets.files:
            files.reserve(path)
        with Progress(quiet=targets.quiet) as progress:
            with pipeline(options, progress, quiet=targets.quiet) as pipe:
                finds = request.mask_image is None and request.method in MASKED_METHODS
                progress.stage(STAGES["mask" if finds else "encode"])
                result = pipe.submit(request, callback=progress.rows).result()
                record = record_of(request, photo, result, pipe, options)
                written = _encoded(targets, photo, result, record, pipe)
            progress.stage("writing")
            for path, data in written.items():
                files.write(path, data)
            files.commit()
        if targets.out == "-":
            output.to_stdout(output.encode(result.image, record=record))
    _say_done(result, record, targets)
    return result


def record_of(
    request: EditRequest,
    photo: Image,
    result: EditResult,
    pipe: DiffEditPipeline,
    options: ModelOptions,
) -> dict[str, Any]:
    """What a PNG keeps: enough to repeat the edit, and no path of this machine."""
    factor = pipe.checkpoint.family.factor
    local = Path(options.model).exists()
    mask: Any = request.mask_image
    return {
        "version": diffedit.__version__,
        "parameters": parameters(request),
        "input": output.digest(photo),
        "mask": output.packed(mask) if mask is not None else None,
        "model": Path(options.model).resolve().name if local else options.model,
        "size": [side * factor for side in result.heatmap.shape],
        "backend": pipe.networks.describe(),
    }


def _encoded(
    targets: Targets,
    photo: Image,
    result: EditResult,
    record: dict[str, Any],
    pipe: DiffEditPipeline,
) -> dict[Path, bytes]:
    """Every file's contents."""
    files: dict[Path, bytes] = {}
    if targets.out != "-":
        files[Path(targets.out)] = output.encode(result.image, Path(targets.out), record)
    if targets.mask is not None:
        files[targets.mask] = output.encode(result.mask, targets.mask)
    if targets.heatmap is not None or targets.panel is not None:
        heat = overlay(pipe, photo, result.heatmap)
        if targets.heatmap is not None:
            files[targets.heatmap] = encoded_heatmap(heat, result.heatmap, targets.heatmap)
        if targets.panel is not None:
            from diffedit.imaging import compose

            sheet = compose.panel(photo, heat, result.mask, result.image)
            files[targets.panel] = output.encode(sheet, targets.panel)
    return files


def encoded_heatmap(overlaid: Image, heatmap: Any, path: Path) -> bytes:
    """The heatmap's numbers (.npy, float32 [h, w]) or the picture of it."""
    if path.suffix != ".npy":
        return output.encode(overlaid, path)
    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, heatmap)
    return buffer.getvalue()


def summary(result: EditResult, record: dict[str, Any]) -> dict[str, Any]:
    """The json line of one edit."""
    return {
        "parameters": record["parameters"],
        "model": record["model"],
        "backend": record["backend"],
        "size": record["size"],
        "mask_share": round(edited_share(result.mask), 6),
        "stats": asdict(result.stats),
        "warnings": list(result.warnings),
    }


def edited_share(mask: Image) -> float:
    """The share of a black and white mask that is white, in [0, 1]."""
    return mask.histogram()[255] / (mask.width * mask.height)


def _say_done(result: EditResult, record: dict[str, Any], targets: Targets) -> None:
    for warning in result.warnings:
        say(f"warning: {warning}")
    if targets.as_json:
        names = {"out": targets.out, "mask": targets.mask, "heatmap": targets.heatmap}
        names["panel"] = targets.panel
        files = {name: str(path) for name, path in names.items() if path is not None}
        print(json.dumps({**files, **summary(result, record)}))  # noqa: T201
    if targets.quiet:
        return
    denoiser = result.stats.denoiser
    rows, calls = result.stats.rows.get(denoiser, 0), result.stats.calls.get(denoiser, 0)
    where = ", ".join(str(path) for path in targets.files) or "standard output"
    say(
        f"wrote {where}: {edited_share(result.mask):.1%} of the picture edited, {rows} rows of the "
        f"{denoiser} in {calls} calls, {result.stats.seconds['total']:.1f} s"
    )
    if targets.out != "-" and Path(targets.out).suffix.lower() != ".png":
        say("note: only PNG keeps the parameters that `replay` needs.")
