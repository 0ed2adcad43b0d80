"""Our two kernels for CPUs, attention and 3 x 3 convolution, against PyTorch's implementations.

The shapes are those of Stable Diffusion 1.5's UNet at 512 px, and the widest of its VAE. Errors are
against PyTorch in float32. TFLOP/s count the multiplications of the definition; our convolution
needs 2.25 times fewer, so it may exceed the rate of a matrix product.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad, scaled_dot_product_attention

from benchmarks import options, roofline
from benchmarks.machine import machine
from benchmarks.report import progress, row
from benchmarks.schema import Measurement, NotRun, Result
from benchmarks.timing import CPU, repeat
from engine.backends.torch.kernels import attention as our_attention
from engine.backends.torch.kernels import convolution as our_convolution

OURS = "our kernel"
ONLY = ("attention", "convolution")
HEADS = 8
ATTENTION = ((4096, 4096, 40), (4096, 77, 40), (1024, 1024, 80), (1024, 77, 80), (256, 256, 160))
"""Queries, keys, channels of a head."""
CONVOLUTION = (
    *((320, 320, 64), (640, 320, 64), (960, 320, 64), (640, 640, 32), (1280, 640, 32)),
    *((1280, 1280, 16), (2560, 1280, 16), (1280, 1280, 8), (128, 128, 512)),
)
"""Channels in, channels out, side."""
TILE = 256

Call = Callable[[], Tensor]
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
Only = Annotated[Any, options.choices(options.WORK, "Kernels to measure", ONLY)]
Rows = Annotated[int, options.option(options.WORK, "Rows of a call.", min=1)]
Flex = Annotated[
    bool, options.option(options.WORK, "flex_attention as well (compiles, minutes).", "--flex")
]


def kernels(
    only: Only = ONLY, rows: Rows = 2, repeats: options.Repeats = 5, flex: Flex = False
) -> Result:
    """Time our attention and convolution kernels for CPUs against PyTorch's implementations.

    Example: python -m benchmarks kernels --only attention --flex
    """
    measured = [
        roofline.limit(
            "matrix product",
            [rate / 1e12 for rate in roofline.matrix_rates(CPU, torch.bfloat16)],
            "TFLOP/s",
            {"precision": "bf16"},
        )
    ]
    not_run = []
    parts: dict[str, Callable[[], Iterator[Measurement]]] = {
        "attention": lambda: _attention(rows, repeats, flex),
        "convolution": lambda: _convolution(rows, repeats),
    }
    modules = {"attention": our_attention, "convolution": our_convolution}
    for name in only:
        if not modules[name].works():
            not_run.append(NotRun(f"{name}, {OURS}", "it is not available here"))
        for found in parts[name]():
            measured.append(found)
            progress(row(found))
    return Result(
        "kernels", machine(), {"rows": rows}, {}, None, tuple(measured), not_run=tuple(not_run)
    )


@torch.inference_mode()
def _attention(rows: int, repeats: int, flex: bool) -> Iterator[Measurement]:
    """Every implementation at every shape."""
    every = dict(IMPLEMENTATIONS)
    if flex:
        from torch.nn.attention.flex_attention import flex_attention

        every["flex_attention, compiled"] = torch.compile(flex_attention, dynamic=False)
    for queries, keys, width in ATTENTION:
        q, k, v = (torch.randn(rows, n, HEADS * width).bfloat16() for n in (queries, keys, keys))
        split = [t.unflatten(-1, (HEADS, width)).transpose(1, 2) for t in (q, k, v)]
        calls: dict[str, Call] = {}
        if our_attention.works():
            calls[OURS] = functools.partial(_our_attention, q, k, v)
        calls |= {name: functools.partial(call, *split) for name, call in every.items()}
        exact = scaled_dot_product_attention(*(t.float() for t in split))
        flops = 4 * rows * HEADS * queries * keys * width
        labels = {"kernel": "attention", "shape": f"{queries} x {keys}, {width} channels"}
        yield from _compare(calls, exact, flops, repeats, labels)


def _our_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    out: Tensor = our_attention.attention(q, k, v, HEADS)
    return out.view(*out.shape[:2], HEADS, -1).transpose(1, 2)


@torch.inference_mode()
def _convolution(rows: int, repeats: int) -> Iterator[Measurement]:
    """Our kernel and PyTorch's at every shape."""
    for channels, out, side in CONVOLUTION:
        x = torch.randn(rows, channels, side, side).bfloat16()
        x = x.to(memory_format=torch.channels_last)
        weight = torch.randn(out, channels, 3, 3).div(3 * channels**0.5).bfloat16()
        wide, wide_weight, bias = x.float(), weight.float(), torch.zeros(out)
        calls: dict[str, Call] = {}
        if our_convolution.works():
            packed = our_convolution.pack_weights(weight)
            calls[OURS] = functools.partial(our_convolution.convolution, x, packed, bias)
        last = weight.to(memory_format=torch.channels_last)
        calls["PyTorch, bf16"] = functools.partial(conv2d, x, last, bias.bfloat16(), padding=1)
        calls["PyTorch, fp32"] = functools.partial(conv2d, wide, wide_weight, bias, padding=1)
        flops = 2 * 9 * rows * channels * out * side * side
        labels = {"kernel": "convolution", "shape": f"{channels} to {out} channels, side {side}"}
        yield from _compare(calls, calls["PyTorch, fp32"](), flops, repeats, labels)


def _compare(
    calls: dict[str, Call], exact: Tensor, flops: int, repeats: int, labels: dict[str, Any]
) -> Iterator[Measurement]:
    """Every implementation at one shape, with its rate and its error against `exact`."""
    for name, call in calls.items():
        error = float((call().float() - exact).norm() / exact.norm())
        seconds = repeat(call, repeats)
        found = Measurement.of(
            "call", [1e3 * s for s in seconds], "ms", {**labels, "implementation": name}
        )
        rate = flops / ((found.value or 0) * 1e9)
        found.extras.update(tflops=round(rate, 3), quality={"relative_error": round(error, 6)})
        yield found


def in_float32(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """PyTorch's attention in fp32, conversions included."""
    return scaled_dot_product_attention(q.float(), k.float(), v.float()).to(q.dtype)


def padded(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """PyTorch's with channels padded to a multiple of 32."""
    width = q.shape[-1]
    q, k, v = (pad(t, (0, -width % 32)) for t in (q, k, v))
    return scaled_dot_product_attention(q, k, v, scale=width**-0.5)[..., :width]


def explicit(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Two batched products with all scores between them."""
    scores: Tensor = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    return scores.softmax(-1) @ v


def tiled(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same for one head and one tile of queries at a time, whose scores fit into the cache."""
    out, scale = torch.empty_like(q), q.shape[-1] ** -0.5
    for batch in range(q.shape[0]):
        for head in range(q.shape[1]):
            keys, values = k[batch, head].T, v[batch, head]
            for first in range(0, q.shape[2], TILE):
                tile = slice(first, first + TILE)
                scores = (q[batch, head, tile] @ keys).mul_(scale)
                out[batch, head, tile] = scores.softmax(-1) @ values
    return out


IMPLEMENTATIONS: dict[str, Attention] = {
    "PyTorch, bf16": scaled_dot_product_attention,
    "PyTorch, fp32": in_float32,
    "PyTorch, bf16, padded": padded,
    "written out": explicit,
    f"tiles of {TILE}": tiled,
}
