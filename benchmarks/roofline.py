"""Seconds of one call of each network, and how near they are to what the device can do.

Two limits are measured in the same process: a large matrix product in the call's precision, and a
large copy. The bound of a call is the longer of its operations at the first and its weights read
once at the second. Operations are those of the definition; our convolution kernel for CPUs needs
2.25 times fewer multiplications, so a call may take less than its bound.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch

from benchmarks import options, plots
from benchmarks.configuration import Configuration
from benchmarks.machine import machine
from benchmarks.networks import (
    BYTES,
    DENOISER,
    NETWORKS,
    first_shape,
    operations,
    random_inputs,
    weight_count,
)
from benchmarks.report import progress, row
from benchmarks.schema import Measurement, NotRun, Result
from benchmarks.timing import repeat
from benchmarks.workload import model_facts
from engine.backends import Backend, Networks
from engine.checkpoint import Checkpoint
from engine.dtypes import TORCH_DTYPES
from engine.errors import DiffEditError
from engine.netspec import Size

SIDES = {"cpu": (2048, 4096), "cuda": (4096, 8192)}
COPIED = {"cpu": 2**28, "cuda": 2**31}
BACKENDS = ("auto", "torch", "onnxruntime", "tensorrt", "openvino")

Backends = Annotated[Any, options.choices(options.BACKEND, "Backends to compare", BACKENDS)]
DTypes = Annotated[
    Any,
    options.values(
        options.BACKEND,
        "torch: precisions to compare, e.g. bf16,fp32. [default: the fastest one that is safe]",
        str,
        show_default=False,
    ),
]
NetworkNames = Annotated[Any, options.choices(options.WORK, "Networks to measure", NETWORKS)]


def roofline(
    model: options.Model = options.DEMO,
    size: options.Size = None,
    networks: NetworkNames = NETWORKS,
    batches: options.Batches = (1, 2, 4, 8, 16, 20),
    repeats: options.Repeats = 5,
    backends: Backends = ("torch",),
    dtypes: DTypes = (),
    engines: options.Engines = None,
    device: options.Device = None,
    compile: options.Compile = False,
    plot: options.Plot = None,
) -> Result:
    """Time a call of each network by backend, precision and batch, against the device's limits.

    Examples:
    python -m benchmarks roofline --model sd15 --size 512 --batches 1,2

    python -m benchmarks roofline --model sd15 --networks unet --batches 1,2 --dtypes bf16,fp32
    --backends torch,onnxruntime,openvino --engines sd15-engines
    """
    checkpoint = Checkpoint.open(model)
    picture: Size = size or (checkpoint.family.native_size,) * 2
    rows: list[Measurement] = []
    not_run: list[NotRun] = []
    descriptions: list[str] = []
    for label, configuration in _configurations(backends, dtypes, engines, device, compile):
        progress(f"roofline: {label}")
        try:
            opened = _open(checkpoint, label, configuration)
        except DiffEditError as error:
            if len(backends) == 1:
                raise
            not_run.append(NotRun(label, str(error)))
            continue
        backend = _Backend(checkpoint, picture, opened, label, repeats)
        for found in backend.measure(networks, batches):
            if isinstance(found, NotRun):
                not_run.append(found)
            else:
                rows.append(found)
                progress(row(found))
        descriptions.append(opened.describe())
        opened.close()
        gc.collect()  # ONNX Runtime takes the profiles that free memory allows
    result = Result(
        "roofline",
        machine(),
        {"size": list(picture)},
        {"backend": "; ".join(descriptions)},
        model_facts(model),
        tuple(rows),
        not_run=tuple(not_run),
    )
    if plot is not None:
        plots.roofline(result, plot)
    return result


def _configurations(
    backends: tuple[str, ...],
    dtypes: tuple[str, ...],
    engines: Path | None,
    device: str | None,
    compile: bool,
) -> Iterator[tuple[str, Configuration]]:
    """Every backend, torch once for each precision, with its label."""
    for backend in backends:
        for dtype in (dtypes or (None,)) if backend == "torch" else (None,):
            chosen = Configuration(backend, engines, device, dtype, compile)
            yield f"{backend} {dtype}" if dtype else backend, chosen


def _open(checkpoint: Checkpoint, label: str, configuration: Configuration) -> Networks:
    """The networks of a configuration. OpenVINO is a comparison, not a backend of this project."""
    if label != "openvino":
        return configuration.open(checkpoint)[0]
    from benchmarks.openvino import OpenVinoNetworks

    if configuration.engines is None:
        raise DiffEditError("OpenVINO runs an ONNX file; name its folder with --engines.")
    return OpenVinoNetworks(configuration.engines)


@dataclass(frozen=True)
class _Backend:
    """The networks of one backend at one picture size."""

    checkpoint: Checkpoint
    size: Size
    networks: Networks
    label: str
    repeats: int

    def measure(
        self, nets: tuple[str, ...], batches: tuple[int, ...]
    ) -> Iterator[Measurement | NotRun]:
        """The two limits, then every network; the denoiser at every batch size that it has."""
        precision = self._find(DENOISER if DENOISER in nets else nets[0]).spec.precision
        device, labels = self.networks.device, {"backend": self.label}
        flops = [rate / 1e12 for rate in matrix_rates(device, TORCH_DTYPES[precision])]
        peak = limit("matrix product", flops, "TFLOP/s", {**labels, "precision": precision})
        copied = limit("copy", [rate / 1e9 for rate in copy_rates(device)], "GB/s", labels)
        yield peak
        yield copied
        limits = (peak.value or 0) * 1e12, (copied.value or 0) * 1e9
        for net in nets:
            for batch in batches if net == DENOISER else (1,):
                yield self._call(net, batch, *limits)

    def _find(self, net: str) -> Backend:
        return self.networks.find(net, first_shape(self.checkpoint, net, self.size))

    def _call(
        self, net: str, batch: int, flops_limit: float, bytes_limit: float
    ) -> Measurement | NotRun:
        """One network at one batch size, or the reason why it cannot run."""
        labels = {"network": net, "rows": batch, "backend": self.label}
        backend, title = self._find(net), f"{self.label}, {net}, {batch} rows"
        if batch not in backend.spec.batch_sizes:
            return NotRun(title, "it has no such batch profile")
        inputs = random_inputs(backend, batch)
        try:
            with torch.inference_mode():
                seconds = repeat(lambda: backend(inputs), self.repeats, device=backend.device)
        except ValueError as error:  # more than memory holds
            return NotRun(title, str(error))
        flops = batch * operations(self.checkpoint, self.checkpoint.spec(net, self.size))
        read = weight_count(self.checkpoint, net) * BYTES[backend.spec.precision]
        found = Measurement.of("call", [1e3 * s for s in seconds], "ms", labels)
        taken = (found.value or 0) / 1e3
        found.extras.update(
            gflop=round(flops / 1e9, 1),
            ms_per_row=round(1e3 * taken / batch, 2),
            bound_ms=round(1e3 * max(flops / flops_limit, read / bytes_limit), 3),
            share_of_limit=round(flops / taken / flops_limit, 4),
        )
        return found


def limit(name: str, rates: list[float], unit: str, labels: dict[str, Any]) -> Measurement:
    """A limit of the device: the best of several tries, not their median."""
    found = Measurement.of(name, rates, unit, labels)
    return replace(found, value=found.high, statistic="maximum")


def matrix_rates(device: torch.device, dtype: torch.dtype) -> list[float]:
    """Operations a second of square matrix products: those of the size whose best is fastest."""
    every = []
    for side in SIDES[device.type]:
        a, b = (torch.rand((side, side), device=device).to(dtype) for _ in range(2))
        seconds = repeat(lambda a=a, b=b: a @ b, 5, device=device)  # type: ignore[misc]
        every.append([2 * side**3 / taken for taken in seconds])
    return max(every, key=max)


def copy_rates(device: torch.device) -> list[float]:
    """Bytes a second of a large copy, read and written."""
    source = torch.zeros(COPIED[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = repeat(lambda: target.copy_(source), 5, device=device)
    return [2 * len(source) / taken for taken in seconds]
