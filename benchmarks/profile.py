"""The time and the rate of each kind of operation in one denoiser call.

Times are those of PyTorch's profiler (on a GPU, of the kernels). Operations are counted on the meta
device by their definition: our convolution kernel for CPUs multiplies less, and may exceed the rate
of a matrix product. "everything else" are elementwise operations: sums, activations, copies. In a
compiled network it includes the kernels that were fused from them.
"""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import replace
from typing import Annotated

import torch
from torch.profiler import ProfilerActivity
from torch.profiler import profile as torch_profile

from benchmarks import options
from benchmarks.configuration import Configuration
from benchmarks.machine import machine
from benchmarks.networks import DENOISER, first_shape, operations_by_kind, random_inputs
from benchmarks.roofline import matrix_rates
from benchmarks.schema import Measurement, Result, rounded
from benchmarks.timing import repeat, synchronize
from benchmarks.workload import model_facts
from engine.backends import Backend
from engine.checkpoint import Checkpoint
from engine.dtypes import TORCH_DTYPES
from engine.errors import DiffEditError

KINDS = {
    "convolutions": ("conv",),
    "attention": ("scaled_dot_product", "flash", "attention", "fmha"),
    "matrix products": ("mm", "linear", "gemm", "matmul"),
    "normalisation": ("norm",),
}
"""Parts of the names of operations and kernels; the first kind that fits is taken."""
REST = "everything else"

Rows = Annotated[int, options.option(options.WORK, "Rows of the call.", min=1)]
Kernels = Annotated[
    bool, options.option(options.BACKEND, "Use our own kernels for CPUs.", "--kernels/--no-kernels")
]


def profile(
    model: options.Model = options.DEMO,
    size: options.Size = None,
    rows: Rows = 2,
    repeats: options.Repeats = 3,
    kernels: Kernels = True,
    backend: options.Backend = "torch",
    device: options.Device = None,
    dtype: options.DType = None,
    compile: options.Compile = False,
) -> Result:
    """Profile one call of the denoiser: seconds and rate of each kind of operation.

    Example: python -m benchmarks profile --model sd15 --size 512 --no-kernels
    """
    if backend not in ("auto", "torch"):
        raise DiffEditError("PyTorch's profiler measures the torch backend only; use that backend.")
    checkpoint = Checkpoint.open(model)
    picture = size or (checkpoint.family.native_size,) * 2
    chosen = Configuration(device=device, dtype=dtype, compile=compile)
    networks, _ = (chosen if kernels else replace(chosen, kernels=())).open(checkpoint)
    denoiser = networks.find(DENOISER, first_shape(checkpoint, DENOISER, picture))
    inputs = random_inputs(denoiser, rows)
    with torch.inference_mode():
        seconds = repeat(lambda: denoiser(inputs), repeats, device=denoiser.device)
        spent = [_spent(denoiser, inputs) for _ in range(repeats)]
    peak = max(matrix_rates(denoiser.device, TORCH_DTYPES[denoiser.spec.precision]))
    flops: Counter[str] = Counter()
    for name, count in operations_by_kind(checkpoint, denoiser.spec).items():
        # On the meta device attention is two batched products; nothing else in a UNet is one.
        flops["attention" if "bmm" in name else kind_of(name)] += rows * count
    call = Measurement.of("call", seconds)
    limit = Measurement("matrix product", rounded(peak / 1e12), "TFLOP/s", statistic="maximum")
    result = Result(
        "profile",
        machine(),
        {"size": list(picture), "rows": rows},
        {"backend": networks.describe(), "compiled": compile},
        model_facts(model),
        (call, limit, *kinds(spent, flops, statistics.median(seconds), peak)),
    )
    networks.close()
    return result


def kind_of(name: str) -> str:
    """The kind of an operation or kernel by its name."""
    low = name.lower()
    return next((kind for kind, parts in KINDS.items() if any(p in low for p in parts)), REST)


def _spent(backend: Backend, inputs: dict[str, torch.Tensor]) -> dict[str, float]:
    """Each kind's share of one profiled call."""
    cuda = backend.device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda
    with torch_profile(activities=activities) as profiler:
        backend(inputs)
        synchronize(backend.device)
    spent: Counter[str] = Counter()
    for event in profiler.key_averages():
        own = event.self_device_time_total if cuda else event.self_cpu_time_total
        spent[kind_of(event.key)] += own
    return {kind: time / spent.total() for kind, time in spent.items()}


def kinds(
    spent: list[dict[str, float]], flops: Counter[str], seconds: float, peak: float
) -> list[Measurement]:
    """Seconds of every kind in a call that takes `seconds` without the profiler, longest first."""
    found = []
    for kind in {kind: None for shares in spent for kind in shares}:
        shares = [one.get(kind, 0.0) for one in spent]
        line = Measurement.of("part", [s * seconds for s in shares], "s", {"kind": kind})
        line.extras["share"] = round(statistics.median(shares), 4)
        if flops[kind] and line.value:
            rate = flops[kind] / line.value
            line.extras.update(
                gflop=round(flops[kind] / 1e9, 1),
                tflops=round(rate / 1e12, 3),
                share_of_limit=round(rate / peak, 3),
            )
        found.append(line)
    return sorted(found, key=lambda line: -(line.value or 0))
