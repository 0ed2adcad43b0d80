"""A model argument -> a checkpoint: a local folder, or a hub id that is downloaded once.

This is the only file that contacts a model hub.
"""

from __future__ import annotations

import re
from pathlib import Path

from engine.checkpoint import Checkpoint
from engine.errors import CheckpointError

HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")
"""The form of a hub id: "name" or "owner/name"."""


def find_checkpoint(
    model: str | Path,
    *,
    revision: str | None = None,
    variant: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Checkpoint:
    """Open a local folder, or download a hub id (configs, tokenizer and safetensors only).

    Reads the header of every weight file, so that a truncated file is found before it is loaded.

    Args:
        model: a folder in diffusers' format, or an id such as "owner/name".
        variant: which weight files: None, or a name such as "fp16".
        revision, cache_dir, local_files_only: as in huggingface_hub; ignored for a folder.

    Raises:
        CheckpointError: the model is missing, incomplete, unsafe, damaged or not supported, or the
            hub cannot be reached.
    """
    folder = Path(model).expanduser()
    if not folder.exists() and HUB_ID.fullmatch(str(model)):
        folder = _download(str(model), revision, variant, cache_dir, local_files_only)
    checkpoint = Checkpoint.open(folder, variant)
    for part in checkpoint.family.parts:
        checkpoint.parameters(part.name)
    return checkpoint


def download_patterns(variant: str | None) -> tuple[list[str], list[str]]:
    """The file patterns to download from a hub, and those to skip.

    Downloads configs, tokenizer and the safetensors of one variant. Skips pickles, parts that no
    edit uses, and other variants.
    """
    weights = f"*/*.{variant}.safetensors" if variant else "*/*.safetensors"
    unused = ["safety_checker/*", "feature_extractor/*", "image_encoder/*", "*/*non_ema*"]
    variants = [] if variant else ["*/*.fp16.safetensors", "*/*.bf16.safetensors"]
    return ["model_index.json", "*/*.json", "*/*.txt", weights], unused + variants


def _download(
    model: str,
    revision: str | None,
    variant: str | None,
    cache_dir: str | Path | None,
    local_files_only: bool,
) -> Path:
    allowed, ignored = download_patterns(variant)
    try:
        from huggingface_hub import snapshot_download

        folder = snapshot_download(
            model,
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            allow_patterns=allowed,
            ignore_patterns=ignored,
        )
    except Exception as error:  # the library's errors have no common base
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{model} is not a folder here and could not be downloaded from the hub ({reason}); "
            "give the path of a checkpoint, or check the id, the network and your access to it."
        ) from error
    return Path(folder)
