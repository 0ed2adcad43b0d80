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
from torch.nn.functional import conv2d, scaled_dot_product_attention

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

Call = Callable[[], Tensor]
Only = Annotated[Any, options.choices(options.WORK, "Kernels to measure", ONLY)]
Rows = Annotated[int, options.option(options.WORK, "Rows of a call.", min=1)]


def kernels(only: Only = ONLY, rows: Rows = 2, repeats: options.Repeats = 5) -> Result:
    """Time our attention and convolution kernels for CPUs against PyTorch's implementations.

    Example: python -m benchmarks kernels --only attention
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
        "attention": lambda: _attention(rows, repeats),
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
def _attention(rows: int, repeats: int) -> Iterator[Measurement]:
    """Our kernel and PyTorch's at every shape."""
    for queries, keys, width in ATTENTION:
        q, k, v = (torch.randn(rows, n, HEADS * width).bfloat16() for n in (queries, keys, keys))
        split = [t.unflatten(-1, (HEADS, width)).transpose(1, 2) for t in (q, k, v)]
        calls: dict[str, Call] = {}
        if our_attention.works():
            calls[OURS] = functools.partial(_our_attention, q, k, v)
        wide = [t.float() for t in split]
        calls["PyTorch, bf16"] = functools.partial(scaled_dot_product_attention, *split)
        calls["PyTorch, fp32"] = functools.partial(scaled_dot_product_attention, *wide)
        exact = calls["PyTorch, fp32"]()
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
