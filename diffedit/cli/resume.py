"""Compare an existing output of `batch` with the edit of a line.

The comparison covers everything that the picture depends on: the photograph, the mask, every
option, the model's weights and everything fused into them, the size, the backend and its precision.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffedit.cli.errors import UsageError
from diffedit.imaging.metadata import EditRecord, pack_mask, pixel_digest, read_record
from diffedit.presets import DECIDED
from diffedit.provenance import Provenance
from diffedit.request import PARAMETERS, EditRequest, parameters
from engine.netspec import Size

if TYPE_CHECKING:
    from diffedit.imaging.photograph import Photograph
    from diffedit.pipeline import DiffEditPipeline


def canvas_size(pipeline: DiffEditPipeline, photo: Photograph, requested: Size | None) -> Size:
    """Return (height, width) of the canvas on which a pipeline edits a photograph."""
    from diffedit import preprocessor

    sizes = (requested,) if requested else pipeline.networks.sizes
    return preprocessor.canvas_size(pipeline.checkpoint.family, photo.size[::-1], sizes)


def stored_record(out: Path) -> EditRecord | None:
    """Return the record of an existing output, or None if there is no file.

    Raises UsageError for a file without a record.
    """
    if not out.exists():
        return None
    try:
        return read_record(out)
    except Exception:  # whatever is in that file, it is not a result
        raise _refusal(out, "it has no record of an edit") from None


def check_options(record: EditRecord, out: Path, request: EditRequest) -> None:
    """Raise UsageError unless an existing output was made with the options of `request`.

    Options that are None, which the preset or the model decides, are not compared: call it again
    with the resolved request.
    """
    wanted = {
        name: value
        for name, value in parameters(request).items()
        if name != "preset" and not (value is None and name in DECIDED)
    }
    names = [name for name, value in wanted.items() if record.parameters.get(name) != value]
    if names or not record.parameters.keys() <= set(PARAMETERS):
        raise _refusal(out, f"other {', '.join(names) or 'options'}")


def check_rest(
    record: EditRecord, out: Path, request: EditRequest, provenance: Provenance, size: Size
) -> None:
    """Raise UsageError unless everything that `check_options` does not compare is equal.

    The machine, the version and the CPU kernels are not compared: they change rounding only.

    Args:
        record: of the output.
        out: its path.
        request: the edit, with its decoded pictures.
        provenance: of the pipeline.
        size: of the canvas.
    """
    photo: Any = request.image
    mask: Any = request.mask_image
    wanted = {
        "photograph": pixel_digest(photo.rgb),
        "mask": pack_mask(mask) if mask is not None else None,
        "size": size,
    }
    stored = {"photograph": record.input, "mask": record.mask, "size": record.size}
    differences = [f"another {name}" for name in wanted if stored[name] != wanted[name]]
    if record.provenance is None:
        differences.append("its model is not recorded")
    else:
        here = {name: getattr(provenance, name) for name in ("version", "kernels", "description")}
        differences += replace(record.provenance, **here).differences(provenance)
    if differences:
        raise _refusal(out, "; ".join(differences))


def _refusal(out: Path, difference: str) -> UsageError:
    return UsageError(
        f"{out} already exists and was not made by this edit; add --force to overwrite it, or "
        f"use another name (difference: {difference})."
    )
