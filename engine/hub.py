"""A model argument -> a folder on disk. The only file that speaks to a model hub."""

from __future__ import annotations

from pathlib import Path

from engine.checkpoint import HUB_ID, Checkpoint, hub_patterns
from engine.errors import CheckpointError


def find_checkpoint(
    model: str | Path,
    *,
    revision: str | None = None,
    variant: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Checkpoint:
    """Open a local folder, or fetch a hub id (configs, tokenizer and safetensors only).

    Raises CheckpointError where there is neither, or where the hub cannot be reached.
    """
    folder = Path(model).expanduser()
    if folder.exists() or not HUB_ID.fullmatch(str(model)):
        return Checkpoint.open(folder, variant)
    wanted, unused = hub_patterns(variant)
    try:
        from huggingface_hub import snapshot_download

        fetched = snapshot_download(
            str(model),
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            allow_patterns=wanted,
            ignore_patterns=unused,
        )
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise CheckpointError(
            f"{model} is no folder here and could not be fetched from the hub ({reason}); give the "
            "path of a checkpoint, or check the id, the network and your access to the model."
        ) from error
    return Checkpoint.open(fetched, variant)
