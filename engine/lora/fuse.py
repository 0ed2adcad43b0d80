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

    def tensors(self, layer: str, device: torch.device) -> dict[str, Tensor]:
        """The tensors for a layer by kind, float32; empty if there are none."""
        target = self.targets.get(layer)
        names = target.tensors if target else {}
        return {kind: self.file.get_tensor(n).to(device).float() for kind, n in names.items()}


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
        for name in dict.fromkeys(name for source in sources for name in source.targets):
            if name not in layers:
                raise CheckpointError(
                    f"The {part} in {checkpoint.folder} has weights for {name}, which its config "
                    "does not use, so no LoRA can change them; download the checkpoint again."
                )
            _fuse_layer(layers[name], name, sources)


def _warn_of_dora(source: _Source, part: str) -> None:
    """A DoRA's scale has no agreed meaning, so say what is done with it."""
    dora = {"dora_scale", "magnitude"}
    count = sum(bool(dora & target.tensors.keys()) for target in source.targets.values())
    if count:
        log.warning(
            "%s is a DoRA: it sets the norms of %d layers of the %s, and its scale of %g blends "
            "linearly between the model's weights (0) and the trained ones (1).",
            *(source.lora.path, count, part, source.lora.scale),
        )


def _fuse_layer(layer: Any, name: str, sources: Sequence[_Source]) -> None:
    """Add the changes of all sources to one layer."""
    weight = layer.weight.float()
    changed, bias = weight.clone(), layer.bias.float() if layer.bias is not None else None
    for source in sources:
        tensors = source.tensors(name, weight.device)
        if not tensors:
            continue
        target = source.targets[name]
        if tensors.keys() != {"diff_b"}:
            change = _finite(source, target, weight_change(tensors, weight, target.factor))
            changed += source.lora.scale * change
        if "diff_b" in tensors and bias is not None:
            bias = bias + source.lora.scale * _finite(source, target, tensors["diff_b"])
    layer.weight.copy_(changed)
    if bias is not None:
        layer.bias.copy_(bias)


def _finite(source: _Source, target: Target, change: Tensor) -> Tensor:
    if not change.isfinite().all():
        raise CheckpointError(
            f"The LoRA {source.lora.path} gives NaN or infinite weights in the layer "
            f"{target.layer}: it is damaged or was not trained to an end; use another file."
        )
    return change
