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
from engine.errors import CheckpointError, first_line
from engine.load_errors import load_error
from engine.utf8_path import utf8_path


def load_module(checkpoint: Checkpoint, part: str, dtype: torch.dtype) -> torch.nn.Module:
    """A part with its weights, in evaluation mode, without gradients, on the CPU.

    Raises:
        CheckpointError: weight files are missing, unsafe, damaged or not readable, lack tensors, or
            a package is missing.
        ResourceError: there is not enough memory.
    """
    files = checkpoint.weight_files(part)  # raises for pickles
    folder = checkpoint.folder / part
    try:
        with quiet(), utf8_path(folder) as path:
            module, info = _class(checkpoint, part).from_pretrained(
                str(path),
                torch_dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                variant=files.variant,
                output_loading_info=True,
            )
    except Exception as error:  # three libraries, whose errors share no base
        raise load_error(error, folder) from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise CheckpointError(
            f"The weights of {folder} lack {len(missing)} tensors ({missing[0]}, ...), so they are "
            "incomplete or of another model; download the checkpoint again."
        )
    frozen: torch.nn.Module = module.eval().requires_grad_(False)
    return frozen


def empty_module(checkpoint: Checkpoint, part: str) -> torch.nn.Module:
    """Build a part from its config on the meta device: with shapes, without weights.

    Raises CheckpointError if the config does not describe such a module, or a package is missing.
    """
    folder = checkpoint.folder / part
    config = {k: v for k, v in checkpoint.family.configs[part].items() if not k.startswith("_")}
    try:
        with quiet(), torch.device("meta"):
            kind = _class(checkpoint, part)
            if checkpoint.part(part).package == "transformers":
                module = kind(kind.config_class.from_dict(config))
            else:
                module = kind.from_config(config)
    except ImportError as error:
        raise load_error(error, folder) from error
    except Exception as error:  # a library may raise anything for a wrong value
        raise CheckpointError(
            f"{folder / 'config.json'} does not describe a {checkpoint.part(part).class_name} "
            f"({first_line(error)}); copy or download it again."
        ) from error
    empty: torch.nn.Module = module
    return empty


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
