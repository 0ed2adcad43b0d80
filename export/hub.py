"""From what the user typed to a validated checkpoint folder: a local folder or a hub id.

It reads configs and the headers of weight files, never a weight, and knows nothing of torch.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from engine.checkpoint import HUB_ID, Checkpoint, hub_patterns
from engine.errors import CheckpointError

PARTS = ("text_encoder", "vae", "unet")


def open_checkpoint(
    model: str,
    *,
    variant: str | None = None,
    revision: str | None = None,
    cache_dir: Path | None = None,
    local_files_only: bool = False,
) -> Checkpoint:
    """The checkpoint at a folder or hub id, every weight file's header checked.

    Args:
        model: a folder, or an id such as "owner/name", whose safetensors files are then fetched.
        variant: None or e.g. "fp16": which weight files to take.
        revision, cache_dir, local_files_only: of the hub; without meaning for a folder.

    Raises:
        CheckpointError: not there, incomplete, unsafe, damaged, or of another architecture.
    """
    folder = Path(model).expanduser()
    if not folder.is_dir():
        folder = _fetch(model, variant, revision, cache_dir, local_files_only)
    checkpoint = Checkpoint.open(folder, variant)
    for part in PARTS:
        parameters(checkpoint, part)
    return checkpoint


def parameters(checkpoint: Checkpoint, part: str) -> int:
    """The number of weights of one part, from the headers of its files."""
    tensors = [t for file in checkpoint.weights(part) for t in read_header(file).values()]
    return sum(math.prod(t["shape"]) for t in tensors)


def read_header(file: Path) -> dict[str, dict[str, Any]]:
    """Tensor name -> {"dtype", "shape", "data_offsets"} of a safetensors file.

    Raises:
        CheckpointError: no safetensors file, or one whose length is not what its header says.
    """
    damaged = CheckpointError(
        f"{file} is damaged: it is truncated or no safetensors file; copy or download it again."
    )
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= size - 8:
                raise damaged
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        end = max((t["data_offsets"][1] for t in header.values()), default=0)
        if not header or 8 + length + end != size:
            raise damaged
        return dict(header)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error.strerror}).") from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise damaged from None


def _fetch(
    model: str,
    variant: str | None,
    revision: str | None,
    cache_dir: Path | None,
    local_files_only: bool,
) -> Path:
    if not HUB_ID.fullmatch(model):
        raise CheckpointError(f"There is no model folder at {model}.")
    wanted, unused = hub_patterns(variant)
    try:
        from huggingface_hub import snapshot_download

        return Path(
            snapshot_download(
                model,
                revision=revision,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                allow_patterns=wanted,
                ignore_patterns=unused,
            )
        )
    except Exception as error:  # its errors have no common base, and any of them means the same
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{model} is no folder here and could not be fetched from the model hub ({reason}); "
            "check the name, the network, or pass a folder in diffusers' format."
        ) from error
