"""Load the parts of a checkpoint as modules: fuse LoRAs, cast, and wrap them with one signature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from engine.checkpoint import Checkpoint
from engine.dtypes import TORCH_DTYPES
from engine.loader import load_module, quiet
from engine.lora.file import Lora
from engine.lora.fuse import fuse
from engine.models import Network
from engine.netspec import NetSpec, Precision
from engine.weights_check import check_part

STEPS = 1000
"""Timesteps of the sample inputs lie in [0, STEPS)."""


class Wrapped(nn.Module):
    """One network with the signature of its ONNX file: inputs by position, float32 outputs."""

    def __init__(self, network: Network, module: nn.Module, precision: Precision) -> None:
        super().__init__()
        self.network = network
        self.module = module
        self.dtype = TORCH_DTYPES[precision]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Call the network."""
        output = self.network.call(self.module, self.dtype, *inputs)
        return output if isinstance(output, tuple) else (output,)


def load(checkpoint: Checkpoint, part: str, loras: Sequence[Lora] = ()) -> nn.Module:
    """Load one part in fp32 on the CPU, in evaluation mode, with LoRAs fused, without gradients.

    Raises CheckpointError if the weights are damaged, incomplete or do not fit the config.
    """
    check_part(checkpoint, checkpoint.part(part))
    module = load_module(checkpoint, part, torch.float32)
    fuse(module, checkpoint, part, loras)
    return module.float().eval().requires_grad_(False)


def wrap(network: Network, module: nn.Module, precision: Precision) -> Wrapped:
    """Cast `module` in place and wrap it as `network`.

    If the checkpoint sets attention to fp32 (Stable Diffusion 2.1, whose scores overflow in fp16),
    the graph computes it in fp32; PyTorch's fused attention would ignore the setting.
    """
    with quiet():
        module = module.to(TORCH_DTYPES[precision])
        if precision == "fp16" and getattr(module.config, "upcast_attention", False):
            from diffusers.models.attention_processor import AttnProcessor

            attentive: Any = module
            attentive.set_attn_processor(AttnProcessor())
    return Wrapped(network, module, precision).eval()


def sample(spec: NetSpec, rows: int, *, vocabulary: int, seed: int = 0) -> tuple[Tensor, ...]:
    """Typical inputs of a network, deterministic for a seed; row i does not depend on `rows`.

    Token ids are uniform below `vocabulary`, pictures uniform in [-1, 1], timesteps uniform in
    [0, STEPS), latents and embeddings standard normal.
    """
    generators = [torch.Generator().manual_seed(seed * 1000 + row) for row in range(rows)]

    def draw(name: str, shape: tuple[int, ...], integer: bool, g: torch.Generator) -> Tensor:
        if integer:
            return torch.randint(0, vocabulary, shape, generator=g)
        if name == "image":
            return torch.rand(shape, generator=g) * 2 - 1
        if name == "timestep":
            return torch.rand(shape, generator=g) * STEPS
        return torch.randn(shape, generator=g)

    by_row = [
        [draw(t.name, t.shape, t.dtype == "int64", g) for t in spec.inputs] for g in generators
    ]
    return tuple(torch.stack(tensors) for tensors in zip(*by_row, strict=True))
