"""Compare results: reduced precision with fp32, and with CUDA graphs and without."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks import accuracy
from benchmarks.configuration import Configuration
from benchmarks.gpu_check.setup import Found, Setup
from benchmarks.networks import DENOISER, NETWORKS, first_shape, random_inputs
from benchmarks.schema import Check, Measurement
from benchmarks.workload import whole
from diffedit import EditResult
from engine.checkpoint import Checkpoint

LIMITS = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 6e-2}
"""The largest relative error of one call."""
CALLS = 3
"""The first call with a batch size captures a graph, the others replay it."""

Outputs = dict[tuple[str, int], Any]
"""(network, rows) -> its first output, float32 on the CPU."""


def correctness(setup: Setup) -> Found:
    """One call of each network, and one edit, in fp16 and bf16 against fp32; fp32 against a CPU."""
    exact = outputs(setup, setup.configuration(dtype="fp32", cuda_graphs=False), (1, 2))
    cpu = outputs(setup, Configuration(device="cpu", dtype="fp32", kernels=()), (1,))
    rows = list(errors("call, against a CPU", exact, cpu, "fp32"))
    for dtype in ("fp16", "bf16"):
        found = outputs(setup, setup.configuration(dtype=dtype), (1, 2))
        rows += errors("call, against fp32", found, exact, dtype)
    checks = [
        Check(f"{row.title}: {row.value:.2g} (at most {limit:g})", (row.value or 0) <= limit)
        for row in rows
        for limit in (LIMITS[row.labels["precision"]],)
    ]
    reference = _edit(setup, "fp32")
    for dtype in ("fp16", "bf16"):
        rows += _edit_errors(_edit(setup, dtype), reference, dtype)
    return Found(tuple(rows), tuple(checks))


def graphs(setup: Setup) -> Found:
    """The same calls with CUDA graphs and without."""
    on = outputs(setup, setup.configuration(), setup.batches)
    off = outputs(setup, setup.configuration(cuda_graphs=False), setup.batches)
    both = {key: on[key] for key in on if key in off}
    rows = list(errors("call, graph against none", both, off, setup.precision))
    equal = sum(bool((on[key] == off[key]).all()) for key in both)
    worst = max(row.value or 0.0 for row in rows)
    count = Measurement("calls equal to the bit", equal, repeats=len(rows), statistic="count")
    text = f"with and without graphs the same within 1e-3: {worst:.2g} at most"
    return Found((*rows, count), (Check(text, worst <= 1e-3),))


def outputs(setup: Setup, configuration: Configuration, batches: tuple[int, ...]) -> Outputs:
    """The output of every network for the same inputs; the denoiser's at several batch sizes."""
    checkpoint = Checkpoint.open(setup.model)
    networks, _ = configuration.open(checkpoint)
    found = {}
    for net in NETWORKS:
        backend = networks.find(net, first_shape(checkpoint, net, setup.load.size))
        sizes = batches if net == DENOISER else batches[:1]
        for rows in (size for size in sizes if size in backend.spec.batch_sizes):
            inputs = random_inputs(backend, rows)
            with torch.inference_mode():
                for _ in range(CALLS):
                    output = backend(inputs)[0]
                found[net, rows] = output.float().cpu().clone()
    networks.close()
    release()
    return found


def release() -> None:
    """Give memory back before the next networks are opened."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def errors(name: str, found: Outputs, exact: Outputs, precision: str) -> Iterator[Measurement]:
    """The relative error of every call that both have."""
    for net, rows in found:
        if (net, rows) in exact:
            error = accuracy.relative_error(found[net, rows], exact[net, rows])
            labels = {"network": net, "rows": rows, "precision": precision}
            yield Measurement(name, error, "", labels, statistic="relative error")


def _edit(setup: Setup, dtype: str) -> EditResult:
    with setup.pipeline(dtype=dtype) as pipe:
        result = whole(pipe.submit(setup.load.request()).result())
    release()
    return result


def _edit_errors(result: EditResult, exact: EditResult, dtype: str) -> Iterator[Measurement]:
    quality = accuracy.quality(result.latent_mask, result.latents, exact.latent_mask, exact.latents)
    for name, value in quality.items():
        labels = {"precision": dtype}
        yield Measurement(f"edit, {name}", value, "", labels, statistic="one edit")
