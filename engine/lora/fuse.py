"""Add LoRAs to the weights of a loaded part: W + scale * change, computed in float32.

Every change is computed from the model's own weights, so the order of the files does not matter.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.checkpoint import Checkpoint
from engine.errors import CheckpointError
from engine.lora.change import weight_change
from engine.lora.file import Lora, Target
from engine.lora.names import plain

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Source:
    """One LoRA, with its open file and what it has for the part."""

    lora: Lora
    targets: dict[str, Target]
    file: Any

    def tensors(self, target: Target, device: torch.device) -> dict[str, Tensor]:
        """The tensors of a target by kind, float32."""
        return {
            kind: self.file.get_tensor(name).to(device).float()
            for kind, name in target.tensors.items()
        }


def fuse(module: torch.nn.Module, checkpoint: Checkpoint, part: str, loras: Sequence[Lora]) -> None:
    """Add every LoRA that changes `part` to the weights of `module`, in place.

    Raises CheckpointError if a file does not fit the model, or holds NaN or infinity.
    """
    from safetensors import safe_open

    planned = [(lora, lora.targets(checkpoint)[part]) for lora in loras]
    layers = {plain(name): layer for name, layer in module.named_modules()}
    with contextlib.ExitStack() as stack, torch.no_grad():
        sources = [
            _Source(lora, targets, stack.enter_context(safe_open(lora.path, framework="pt")))
            for lora, targets in planned
            if targets
        ]
        for source in sources:
            _warn_of_dora(source, part)
        for group in _groups(sources):
            for name in group.layers:
                if name not in layers:
                    raise CheckpointError(
                        f"The {part} in {checkpoint.folder} has weights for {name}, which its "
                        "config does not use, so LoRAs cannot change them; download the checkpoint "
                        "again."
                    )
            _fuse_group({name: layers[name] for name in group.layers}, group.targets)


@dataclass(frozen=True)
class _Group:
    """Layers of the module that are changed together, because one original layer contains them."""

    layers: tuple[str, ...]
    targets: tuple[tuple[_Source, Target], ...]


def _groups(sources: Sequence[_Source]) -> list[_Group]:
    """The changes of all sources, by the layers that they change."""
    groups: dict[str, _Group] = {}
    for source in sources:
        for target in source.targets.values():
            names = [plain(piece.layer) for piece in target.pieces]
            joined = list({id(groups[n]): groups[n] for n in names if n in groups}.values())
            layers = dict.fromkeys([*(n for group in joined for n in group.layers), *names])
            targets = [t for group in joined for t in group.targets]
            group = _Group(tuple(layers), (*targets, (source, target)))
            groups |= dict.fromkeys(layers, group)
    return list({id(group): group for group in groups.values()}.values())


def _warn_of_dora(source: _Source, part: str) -> None:
    """Log how a DoRA's scale is applied, because programs interpret it differently."""
    dora = {"dora_scale", "magnitude"}
    count = sum(bool(dora & target.tensors.keys()) for target in source.targets.values())
    if count:
        log.warning(
            "%s is a DoRA: it sets the norms of %d layers of the %s, and its scale of %g blends "
            "linearly between the model's weights (0) and the trained ones (1).",
            *(source.lora.path, count, part, source.lora.scale),
        )


def _fuse_group(layers: dict[str, Any], targets: Sequence[tuple[_Source, Target]]) -> None:
    """Add changes to layers. Each is computed from the model's own weights."""
    own = {name: layer.weight.float() for name, layer in layers.items()}
    changed = {name: weight.clone() for name, weight in own.items()}
    biases = {
        n: layer.bias.float().clone() for n, layer in layers.items() if layer.bias is not None
    }
    for source, target in targets:
        pieces = [(plain(piece.layer), piece) for piece in target.pieces]
        weight = torch.cat([own[name][piece.own] for name, piece in pieces])
        tensors, scale = source.tensors(target, weight.device), source.lora.scale
        if tensors.keys() != {"diff_b"}:
            change = _finite(source, target, weight_change(tensors, weight, target.factor))
            for name, piece in pieces:
                changed[name][piece.own] += scale * change[piece.original]
        if "diff_b" in tensors:
            change = _finite(source, target, tensors["diff_b"])
            for name, piece in pieces:
                if name in biases:
                    biases[name][piece.own] += scale * change[piece.original]
    for name, layer in layers.items():
        layer.weight.copy_(changed[name])
        if name in biases:
            layer.bias.copy_(biases[name])


def _finite(source: _Source, target: Target, change: Tensor) -> Tensor:
    if not change.isfinite().all():
        raise CheckpointError(
            f"The LoRA {source.lora.path} gives NaN or infinite weights in the layer "
            f"{target.layer}, so it is damaged or its training failed; use another file."
        )
    return change
