"""3 x 3 convolutions on a CPU: our kernel against PyTorch's.

    python -m benchmarks convolution [--rows 2]

The shapes are those of Stable Diffusion 1.5's UNet at 512 px, and the widest of its VAE. Each
figure is the best of several calls. TFLOP/s count the multiplications of the definition, of which
our kernel needs a 2.25th: it may go past the rate of a matrix product. Errors are against PyTorch
in float32.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from benchmarks.roofline import durations, matrix_ceiling
from engine.backends.convolution import convolution, packed, usable

CPU = torch.device("cpu")
SHAPES = (
    *((320, 320, 64), (640, 320, 64), (960, 320, 64), (640, 640, 32), (1280, 640, 32)),
    *((1280, 1280, 16), (2560, 1280, 16), (1280, 1280, 8), (128, 128, 512)),
)
"""Channels in, channels out, side."""


def run(arguments: list[str]) -> dict[str, Any]:
    """Time every way at every shape; print a line each."""
    args = _parser().parse_args(arguments)
    kernel = usable()
    peak = matrix_ceiling(CPU, torch.bfloat16)
    print(f"a matrix product in bf16 reaches {peak / 1e12:.3f} TFLOP/s")
    lines = [
        line for shape in SHAPES for line in measured(shape, args.rows, args.repeats, kernel=kernel)
    ]
    if not kernel:
        print("our kernel cannot be had here, or is slower than PyTorch's")
    return {"rows": args.rows, "matrix_tflops": round(peak / 1e12, 3), "calls": lines}


@torch.inference_mode()
def measured(
    shape: tuple[int, int, int], rows: int, repeats: int, *, kernel: bool
) -> list[dict[str, Any]]:
    """One shape: a line for every way, ours first."""
    channels, out, side = shape
    last = torch.channels_last
    x = torch.randn(rows, channels, side, side).bfloat16().to(memory_format=last)
    weight = torch.randn(out, channels, 3, 3).div(3 * channels**0.5).bfloat16()
    weight, ready = weight.to(memory_format=last), packed(weight)
    wide, wide_weight = x.float(), weight.float()
    none, none_narrow = torch.zeros(out), torch.zeros(out, dtype=torch.bfloat16)
    calls: dict[str, Callable[[], Tensor]] = {
        "our kernel": lambda: convolution(x, ready, none),
        "PyTorch, bf16": lambda: conv2d(x, weight, none_narrow, padding=1),
        "PyTorch, fp32": lambda: conv2d(wide, wide_weight, none, padding=1),
    }
    if not kernel:
        del calls["our kernel"]
    true = calls["PyTorch, fp32"]()
    flops = 2 * 9 * rows * channels * out * side * side
    found = []
    for name, call in calls.items():
        error = float((call().float() - true).norm() / true.norm())
        seconds = min(durations(call, CPU, repeats))
        found.append(
            {
                "shape": list(shape),
                "way": name,
                "ms": round(1e3 * seconds, 2),
                "tflops": round(flops / seconds / 1e12, 3),
                "relative_error": round(error, 6),
            }
        )
        print(
            f"{channels:4d} to {out:4d} channels, {side:3d} x {side:3d}  {name:14} "
            f"{1e3 * seconds:8.1f} ms  {flops / seconds / 1e12:6.3f} TFLOP/s  error {error:.1e}",
            flush=True,
        )
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks convolution",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", type=int, default=2, help="of a call (2)")
    parser.add_argument("--repeats", type=int, default=6, help="calls a figure, the best (6)")
    return parser
