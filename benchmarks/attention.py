"""Attention on a CPU: our kernel against PyTorch's ways of computing it.

    python -m benchmarks attention [--rows 2] [--flex]

The shapes are those of Stable Diffusion 1.5's UNet at 512 px. Each figure is the best of several
calls; errors are against PyTorch in float32.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from benchmarks.roofline import durations, matrix_ceiling
from engine.backends.attention import attention, usable

CPU = torch.device("cpu")
HEADS = 8
SHAPES = ((4096, 4096, 40), (4096, 77, 40), (1024, 1024, 80), (1024, 77, 80), (256, 256, 160))
"""Queries, keys, channels a head."""
TILE = 256

Way = Callable[[Tensor, Tensor, Tensor], Tensor]


def run(arguments: list[str]) -> dict[str, Any]:
    """Time every way at every shape; print a line each."""
    args = _parser().parse_args(arguments)
    ways = dict(WAYS)
    if args.flex:
        from torch.nn.attention.flex_attention import flex_attention

        ways["flex_attention, compiled"] = torch.compile(flex_attention, dynamic=False)
    kernel = usable()
    peak = matrix_ceiling(CPU, torch.bfloat16)
    print(f"a matrix product in bf16 reaches {peak / 1e12:.3f} TFLOP/s")
    lines = [
        line
        for shape in SHAPES
        for line in measured(shape, ways, args.rows, args.repeats, kernel=kernel)
    ]
    if not kernel:
        print("our kernel cannot be had here, or is slower than PyTorch's")
    return {"rows": args.rows, "matrix_tflops": round(peak / 1e12, 3), "calls": lines}


@torch.inference_mode()
def measured(
    shape: tuple[int, int, int], ways: dict[str, Way], rows: int, repeats: int, *, kernel: bool
) -> list[dict[str, Any]]:
    """One shape: a line for every way, ours first."""
    queries, keys, width = shape
    q, k, v = (torch.randn(rows, n, HEADS * width).bfloat16() for n in (queries, keys, keys))
    split = [t.unflatten(-1, (HEADS, width)).transpose(1, 2) for t in (q, k, v)]
    true = scaled_dot_product_attention(*(t.float() for t in split))
    calls = {name: functools.partial(way, *split) for name, way in ways.items()}
    if kernel:

        def ours() -> Tensor:
            out: Tensor = attention(q, k, v, HEADS)
            return out.view(rows, queries, HEADS, width).transpose(1, 2)

        calls = {"our kernel": functools.partial(ours), **calls}
    flops = 4 * rows * HEADS * queries * keys * width
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
            f"{queries:5d} x {keys:4d}, {width:3d} channels  {name:28} {1e3 * seconds:8.1f} ms  "
            f"{flops / seconds / 1e12:6.3f} TFLOP/s  error {error:.1e}",
            flush=True,
        )
    return found


def in_float32(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """PyTorch's in fp32, conversions included."""
    return scaled_dot_product_attention(q.float(), k.float(), v.float()).to(q.dtype)


def padded(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """PyTorch's with channels padded to whole vectors of 32."""
    width = q.shape[-1]
    wide_q, wide_k, wide_v = (pad(t, (0, -width % 32)) for t in (q, k, v))
    wide = scaled_dot_product_attention(wide_q, wide_k, wide_v, scale=width**-0.5)
    return wide[..., :width]


def written_out(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Two batched products with all scores between them."""
    scores: Tensor = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    return scores.softmax(-1) @ v


def tiled(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same a head and a tile of queries at a time, so that scores stay in the cache."""
    out, scale = torch.empty_like(q), q.shape[-1] ** -0.5
    for row in range(q.shape[0]):
        for head in range(q.shape[1]):
            keys, values = k[row, head].T, v[row, head]
            for first in range(0, q.shape[2], TILE):
                tile = slice(first, first + TILE)
                scores = (q[row, head, tile] @ keys).mul_(scale)
                out[row, head, tile] = scores.softmax(-1) @ values
    return out


WAYS: dict[str, Way] = {
    "PyTorch, bf16": scaled_dot_product_attention,
    "PyTorch, fp32": in_float32,
    "PyTorch, bf16, padded": padded,
    "written out": written_out,
    f"tiles of {TILE}": tiled,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks attention",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", type=int, default=2, help="of a call (2)")
    parser.add_argument("--repeats", type=int, default=4, help="calls a figure, the best (4)")
    parser.add_argument(
        "--flex", action="store_true", help="flex_attention too (compiles, minutes)"
    )
    return parser
