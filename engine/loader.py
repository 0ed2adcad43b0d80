"""Load one part of a checkpoint as a PyTorch module.

Both the PyTorch backend and the export use it, so both check weights in the same way.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from engine.checkpoint import Checkpoint
from engine.errors import CheckpointError


def load_module(checkpoint: Checkpoint, part: str, dtype: torch.dtype) -> torch.nn.Module:
    """A part with its weights, in evaluation mode, without gradients, on the CPU.

    Raises CheckpointError if weight files are missing, unsafe or damaged, or lack tensors.
    """
    checkpoint.weights(part)  # refuses pickles and missing files with a sentence of its own
    folder = checkpoint.folder / part
    try:
        with quiet():
            module, info = _class(checkpoint, part).from_pretrained(
                str(folder),
                torch_dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                variant=checkpoint.variant,
                output_loading_info=True,
            )
    except Exception as error:  # three libraries, whose errors share no base
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise CheckpointError(
            f"The weights of {folder} cannot be loaded ({reason}): they are incomplete, damaged or "
            "do not fit the config; download the checkpoint again."
        ) from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise CheckpointError(
            f"The weights of {folder} lack {len(missing)} tensors ({missing[0]}, ...): they belong "
            "to another model or are incomplete; download the checkpoint again."
        )
    frozen: torch.nn.Module = module.eval().requires_grad_(False)
    return frozen


def _class(checkpoint: Checkpoint, part: str) -> Any:
    described = checkpoint.part(part)
    return getattr(importlib.import_module(described.package), described.class_name)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings and progress bars of diffusers and transformers; errors still appear."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries = (diffusers_logging, transformers_logging)
    disabled = logging.root.manager.disable
    bars = [library.is_progress_bar_enabled() for library in libraries]
    logging.disable(max(disabled, logging.WARNING))
    for library in libraries:
        library.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        for library, shown in zip(libraries, bars, strict=True):
            if shown:
                library.enable_progress_bar()
