"""Compare an existing output of `batch` with the edit that a line asks for.

The comparison covers everything that decides the picture: the photograph, the mask, every option,
the model's weights, what was fused into them, the size, the backend and its precision.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffedit.cli.errors import UsageError
from diffedit.imaging.metadata import EditRecord, pack_mask, pixel_digest, read_record
from diffedit.request import EditRequest, parameters
from engine.checkpoint import Checkpoint
from engine.digest import file_digest
from engine.manifest import ModelIdentity
from engine.netspec import Size

if TYPE_CHECKING:
    from diffedit.imaging.photograph import Photograph
    from diffedit.pipeline import DiffEditPipeline


def identity_of(pipeline: DiffEditPipeline) -> dict[str, str]:
    """Return what makes the edits of a pipeline, for `EditRecord.identity`.

    Reads all weights once to compute their digest, which takes seconds for gigabytes.
    """
    networks: Any = pipeline.networks
    folder = getattr(networks, "folder", None)  # of a backend that runs compiled networks
    return {
        "model": _model_digest(pipeline.checkpoint),
        "LoRA": fused_identity(folder.manifest.model if folder is not None else None),
        "backend": networks.name,
        "precision": folder.precisions if folder is not None else networks.precision,
    }


def fused_identity(model: ModelIdentity | None) -> str:
    """Return the digests and scales of what was fused into compiled networks; "[]" for nothing."""
    fused = [*model.loras, *model.embeddings] if model is not None else []
    return json.dumps([[file.sha256, file.scale] for file in fused])


def _model_digest(checkpoint: Checkpoint) -> str:
    """Return one sha256 of weights, configs, scheduler and tokenizer."""
    tokenizer = sorted(p for p in (checkpoint.folder / "tokenizer").iterdir() if p.is_file())
    parts = {
        **checkpoint.digests(),
        "scheduler": dict(checkpoint.scheduler_config),
        **{f"tokenizer/{path.name}": file_digest(path) for path in tokenizer},
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def canvas_size(pipeline: DiffEditPipeline, photo: Photograph, requested: Size | None) -> Size:
    """Return (height, width) of the canvas on which a pipeline edits a photograph."""
    from diffedit.imaging import geometry

    family = pipeline.checkpoint.family
    sizes = (requested,) if requested else pipeline.networks.sizes
    return geometry.choose_size(photo.size[::-1], sizes, family.native_size, family.factor)


def stored_record(out: Path) -> EditRecord | None:
    """Return the record of an existing output, or None if there is no file.

    Raises UsageError for a file that `batch` did not write.
    """
    if not out.exists():
        return None
    try:
        return read_record(out)
    except Exception:  # whatever is in that file, it is not a result
        raise _refusal(out, "it has no record of an edit") from None


def check_options(record: EditRecord, out: Path, request: EditRequest) -> None:
    """Raise UsageError unless an existing output was made with the options of `request`."""
    wanted = parameters(request)
    names = [name for name, value in wanted.items() if record.parameters.get(name) != value]
    if names or record.parameters.keys() != wanted.keys():
        raise _refusal(out, f"other {', '.join(names) or 'options'}")


def check_rest(
    record: EditRecord, out: Path, request: EditRequest, identity: dict[str, str], size: Size
) -> None:
    """Raise UsageError unless an existing output agrees with all that `check_options` leaves out.

    Args:
        record: of the output.
        out: its path.
        request: the edit, with its decoded pictures.
        identity: of the pipeline.
        size: of the canvas.
    """
    photo: Any = request.image
    mask: Any = request.mask_image
    wanted = {
        "photograph": pixel_digest(photo.rgb),
        "mask": pack_mask(mask.image) if mask is not None else None,
        "size": size,
        **identity,
    }
    stored = {
        "photograph": record.input,
        "mask": record.mask,
        "size": record.size,
        **(record.identity or {}),
    }
    names = [name for name, value in wanted.items() if stored.get(name) != value]
    if names:
        raise _refusal(out, f"another {', '.join(names)}")


def _refusal(out: Path, difference: str) -> UsageError:
    return UsageError(
        f"{out} already exists and was not made by this edit; add --force to overwrite it, or "
        f"name another file (difference: {difference})."
    )
