"""Attention on a CPU: our kernel against PyTorch's ways of computing it.

    python -m benchmarks attention [--rows 2] [--flex]

The shapes are those of Stable Diffusion 1.5's UNet at 512 px. Each figure is the best of several
calls; errors are against PyTorch in float32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from benchmarks.kernels import OURS, Calls, Lines, Shape, compare, parser, timed
from engine.backends.torch.kernels.attention import attention, usable

HEADS = 8
SHAPES = ((4096, 4096, 40), (4096, 77, 40), (1024, 1024, 80), (1024, 77, 80), (256, 256, 160))
"""Queries, keys, channels a head."""
TILE = 256

Way = Callable[[Tensor, Tensor, Tensor], Tensor]


def run(arguments: list[str]) -> dict[str, Any]:
    """Time every way at every shape; print a line each."""
    options = parser("attention", __doc__, repeats=4)
    options.add_argument(
        "--flex", action="store_true", help="flex_attention too (compiles, minutes)"
    )
    args = options.parse_args(arguments)
    ways = dict(WAYS)
    if args.flex:
        from torch.nn.attention.flex_attention import flex_attention

        ways["flex_attention, compiled"] = torch.compile(flex_attention, dynamic=False)
    return compare(args.rows, SHAPES, lambda shape: measured(shape, ways, args.rows, args.repeats))


@torch.inference_mode()
def measured(shape: Shape, ways: dict[str, Way], rows: int, repeats: int) -> Lines:
    """One shape: a line for every way, ours first where it can be had."""
    queries, keys, width = shape
    q, k, v = (torch.randn(rows, n, HEADS * width).bfloat16() for n in (queries, keys, keys))
    split = [t.unflatten(-1, (HEADS, width)).transpose(1, 2) for t in (q, k, v)]

    def ours() -> Tensor:
        out: Tensor = attention(q, k, v, HEADS)
        return out.view(rows, queries, HEADS, width).transpose(1, 2)

    calls: Calls = {OURS: ours} if usable() else {}
    calls |= {name: functools.partial(way, *split) for name, way in ways.items()}
    true = scaled_dot_product_attention(*(t.float() for t in split))
    flops = 4 * rows * HEADS * queries * keys * width
    said = f"{queries:5d} x {keys:4d}, {width:3d} channels"
    return timed(shape, said, calls, true, flops, repeats)


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
