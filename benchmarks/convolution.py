"""3 x 3 convolutions on a CPU: our kernel against PyTorch's.

    python -m benchmarks convolution [--rows 2]

The shapes are those of Stable Diffusion 1.5's UNet at 512 px, and the widest of its VAE. Each
figure is the best of several calls. TFLOP/s count the multiplications of the definition, of which
our kernel needs a 2.25th: it may go past the rate of a matrix product. Errors are against PyTorch
in float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import conv2d

from benchmarks.kernels import OURS, Calls, Lines, Shape, compare, parser, timed
from engine.backends.torch.kernels.convolution import convolution, pack_weights, usable

SHAPES = (
    *((320, 320, 64), (640, 320, 64), (960, 320, 64), (640, 640, 32), (1280, 640, 32)),
    *((1280, 1280, 16), (2560, 1280, 16), (1280, 1280, 8), (128, 128, 512)),
)
"""Channels in, channels out, side."""


def run(arguments: list[str]) -> dict[str, Any]:
    """Time every way at every shape; print a line each."""
    args = parser("convolution", __doc__, repeats=6).parse_args(arguments)
    return compare(args.rows, SHAPES, lambda shape: measured(shape, args.rows, args.repeats))


@torch.inference_mode()
def measured(shape: Shape, rows: int, repeats: int) -> Lines:
    """One shape: a line for every way, ours first where it can be had."""
    channels, out, side = shape
    last = torch.channels_last
    x = torch.randn(rows, channels, side, side).bfloat16().to(memory_format=last)
    weight = torch.randn(out, channels, 3, 3).div(3 * channels**0.5).bfloat16()
    weight, ready = weight.to(memory_format=last), pack_weights(weight)
    wide, wide_weight = x.float(), weight.float()
    none, none_narrow = torch.zeros(out), torch.zeros(out, dtype=torch.bfloat16)
    calls: Calls = {
        OURS: lambda: convolution(x, ready, none),
        "PyTorch, bf16": lambda: conv2d(x, weight, none_narrow, padding=1),
        "PyTorch, fp32": lambda: conv2d(wide, wide_weight, none, padding=1),
    }
    if not usable():
        del calls[OURS]
    flops = 2 * 9 * rows * channels * out * side * side
    said = f"{channels:4d} to {out:4d} channels, {side:3d} x {side:3d}"
    return timed(shape, said, calls, calls["PyTorch, fp32"](), flops, repeats)
