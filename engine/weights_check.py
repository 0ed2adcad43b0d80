"""Compare the headers of a checkpoint's weight files with its modules, before a weight is loaded.

The modules are built on PyTorch's meta device, where they have shapes but no memory, so the check
takes about a second for a model of any size. The libraries would fill missing weights with random
numbers and only log it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch

from engine.checkpoint import Checkpoint
from engine.errors import CheckpointError
from engine.loader import empty_module
from engine.models import Part
from engine.network_check import check_networks
from engine.safetensors_header import Header

Shapes = Mapping[str, tuple[int, ...]]

FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
HARMLESS = re.compile(r"(.*\.)?position_ids|text_projection\.weight|logit_scale")
"""Tensors that old versions of transformers saved and that are not used."""
OLD_ATTENTION = (
    ("query", "to_q"),
    ("key", "to_k"),
    ("value", "to_v"),
    ("proj_attn", "to_out.0"),
)
"""Names of the VAE's attention layers before diffusers 0.18, which diffusers still reads."""


def check_weights(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError unless every part's networks can run and its weight files fit exactly:
    every tensor exists, has the module's shape and a floating-point type, and there are no others.
    """
    for part in checkpoint.family.parts:
        check_part(checkpoint, part)


def check_part(checkpoint: Checkpoint, part: Part) -> None:
    """The same for one part."""
    folder = checkpoint.folder / part.name
    files = checkpoint.weight_files(part.name)
    module = empty_module(checkpoint, part.name)
    check_networks(checkpoint, part.name, module)
    wanted = {_plain(name): tuple(t.shape) for name, t in module.state_dict().items()}
    found = _renamed(files.headers(), wanted, sharded=files.index is not None)
    for names in _shared(module):  # a file has a shared tensor under one of its names
        held = next((found[name] for name in names if name in found), None)
        found |= dict.fromkeys(names, held) if held else {}
    layers = checkpoint.family.configs[part.name].get("num_hidden_layers")
    shapes = {name: tuple(tensor["shape"]) for name, tensor in found.items()}
    problem = _difference(wanted, shapes, layers) or _dtype_problem(wanted, found)
    if problem:
        raise CheckpointError(f"The weights of {folder} {problem}")


def _shared(module: torch.nn.Module) -> list[list[str]]:
    """The names of each parameter that has several, such as T5's token embedding."""
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(_plain(name))
    return [same for same in names.values() if len(same) > 1]


def _difference(wanted: Shapes, found: Shapes, layers: int | None) -> str | None:
    """Missing, unexpected and misshapen tensors, as the end of a sentence."""
    missing = wanted.keys() - found.keys()
    unexpected = {
        name
        for name in found.keys() - wanted.keys()
        if not HARMLESS.fullmatch(name) and not _skipped_layer(name, layers)
    }
    other = {name for name in wanted.keys() & found.keys() if wanted[name] != found[name]}
    if missing:
        also = f" and have {_named(unexpected)} that it does not have" if unexpected else ""
        return (
            f"lack {_named(missing)} of the model that its config describes{also}, so they are "
            "incomplete or of another model; download the checkpoint again."
        )
    if other:
        name = min(other)
        return (
            f"do not fit its config: {name} has the shape {list(found[name])} instead of "
            f"{list(wanted[name])} ({len(other)} such), so weights and config are of different "
            "models; download the checkpoint again."
        )
    if unexpected:
        return (
            f"have {_named(unexpected)} that the model of its config does not have, so they are of "
            "another model; use its own config."
        )
    return None


def _dtype_problem(wanted: Shapes, found: Header) -> str | None:
    other = {n: found[n]["dtype"] for n in sorted(wanted) if found[n]["dtype"] not in FLOATS}
    for name, dtype in other.items():
        return (
            f"are stored as {dtype} ({name}, {len(other)} such), but quantized weights are not "
            "supported; use the checkpoint that they were made from."
        )
    return None


def _renamed(header: Header, wanted: Shapes, *, sharded: bool) -> Header:
    """The header with the module's names, if the libraries rename tensors too."""
    renamed: Header = {}
    for name, tensor in header.items():
        name = _plain(name)
        if name not in wanted and not sharded:
            stem, _, last = name.rpartition(".")
            for old, new in OLD_ATTENTION:
                changed = f"{stem.removesuffix('.' + old)}.{new}.{last}"
                if stem.endswith(f".{old}") and changed in wanted:
                    name = changed
        renamed[name] = tensor
    return renamed


def _plain(name: str) -> str:
    """Remove a level from CLIP's names that transformers treats as optional."""
    return name.removeprefix("text_model.")


def _skipped_layer(name: str, layers: int | None) -> bool:
    """Whether a tensor belongs to a layer of the text encoder above those that the config uses.

    A checkpoint may have a "clip skip" by stating fewer layers; the others are not loaded.
    """
    match = re.match(r"encoder\.layers\.(\d+)\.", name)
    return match is not None and isinstance(layers, int) and int(match[1]) >= layers


def _named(names: Iterable[str]) -> str:
    """Such as "2 tensors (a, b)", with three names at most."""
    names = sorted(names)
    dots = ", ..." if len(names) > 3 else ""
    return f"{len(names)} tensors ({', '.join(names[:3])}{dots})"
