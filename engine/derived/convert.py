"""Convert the parts of a single file with diffusers' loaders, one part at a time to save memory."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.errors import CheckpointError, first_line
from engine.load_errors import known_reason
from engine.loader import quiet

FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
Weights = dict[str, Tensor]


def convert_part(file: Path, prefix: str, part: str, names: tuple[str, str], folder: Path) -> None:
    """Convert one part into `folder / part`, whose `config.json` is there already.

    Args:
        file: the single file.
        prefix: prefix of the names of the part's tensors.
        names: package and class of the part.

    Raises:
        CheckpointError: the tensors do not fit the config.
        ResourceError: there is not enough memory or disk space.
    """
    config = folder / part / "config.json"
    text = config.read_text()
    try:
        with quiet(), torch.no_grad():
            module = _module(_weights(file, prefix), part, names, folder)
            _require_complete(module)
            module.save_pretrained(folder / part, max_shard_size="20GB")
        config.write_text(text)  # without the libraries' versions, on which digests would depend
    except CheckpointError as error:
        raise CheckpointError(f"The {part} of {file} {error}") from None
    except Exception as error:  # the libraries' errors have no common base
        if known := known_reason(error, file):
            raise known from error
        raise CheckpointError(
            f"The {part} of {file} cannot be converted ({type(error).__name__}: "
            f"{first_line(error)}), because its layout or its sizes are not those of the model; "
            "pass a checkpoint of the same model as base, or download the file again."
        ) from error


def _weights(file: Path, prefix: str) -> Weights:
    """The tensors of a part in one dtype that can represent all of them: fp8 is converted to the
    dtype of the other tensors, or to bf16."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        names = [name for name in opened.keys() if name.startswith(prefix)]  # noqa: SIM118
        tensors = {name: opened.get_tensor(name) for name in names}
    own = {t.dtype for t in tensors.values() if t.is_floating_point() and t.dtype not in FP8}
    dtype = functools.reduce(torch.promote_types, own) if own else torch.bfloat16
    return {n: t.to(dtype) if t.is_floating_point() else t for n, t in tensors.items()}


def _module(weights: Weights, part: str, names: tuple[str, str], folder: Path) -> Any:
    """The part as a module of its class, with these weights."""
    from diffusers.loaders import single_file_utils as loaders

    package, class_name = names
    kind = getattr(importlib.import_module(package), class_name)
    dtype = next(t.dtype for t in weights.values() if t.is_floating_point())
    options: dict[str, Any] = {"subfolder": part, "config": str(folder), "local_files_only": True}
    options["torch_dtype"] = dtype  # without it, the libraries make fp32 of everything
    if package == "diffusers":
        return kind.from_single_file(weights, **options)
    if class_name.startswith("T5"):
        module = loaders.create_diffusers_t5_model_from_checkpoint(kind, weights, **options)
        module.tie_weights()
        return module
    weights = _with_text_model(weights)
    return loaders.create_diffusers_clip_model_from_ldm(kind, weights, **options)


def _with_text_model(weights: Mapping[str, Tensor]) -> Weights:
    """Add the level `text_model` to CLIP's names, which some programs omit and diffusers needs."""
    bare = ".transformer.embeddings.", ".transformer.encoder.", ".transformer.final_layer_norm."

    def renamed(name: str) -> str:
        if any(mark in name for mark in bare) and ".text_model." not in name:
            return name.replace(".transformer.", ".transformer.text_model.", 1)
        return name

    return {renamed(name): tensor for name, tensor in weights.items()}


def _require_complete(module: Any) -> None:
    """Raise CheckpointError if a weight was not in the file, so that it is still a meta tensor."""
    missing = sorted(name for name, tensor in module.named_parameters() if tensor.is_meta)
    if missing:
        raise CheckpointError(
            f"lacks {len(missing)} tensors of the model ({', '.join(missing[:3])}), because the "
            "file is incomplete or of another model; pass a checkpoint of the same model as base, "
            "or download the file again."
        )
