"""Compare profiles of compiled networks with PyTorch in fp32 on the CPU.

The reference is computed once, one row at a time, for the largest batch. Rows are independent, so
its first b rows are the reference of profile b. A backend that mixes the rows of a batch is
detected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.backends.onnxruntime import memory
from engine.build_forecast import session_bytes
from engine.errors import DiffEditError, first_line
from engine.manifest import Check, Entry, Format, Manifest
from engine.netspec import NetSpec, Precision
from export.checks import NO_MEMORY, runs_on_gpu
from export.half_precision import HalfPrecisionEmulation
from export.networks import Wrapped

TOLERANCE: dict[Precision, float] = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 5e-2}
"""The largest relative error, ||got - want|| / ||want|| over a whole batch, that passes.

Random networks of every kind had errors of 2e-6 (fp32), 1.5e-3 (fp16) and 1.2e-2 (bf16) in ONNX
Runtime and PyTorch; deep networks and another order of summation have several times that. A wrong
axis, scale or timestep gives 1e-1 and more, so the limits distinguish the two."""

REPLAYS = 3
"""Calls of each profile on a GPU: the first binds, the second captures a graph, the third replays
it and is compared. A CPU's call is the same each time: one is enough."""

Outputs = Sequence[Tensor]
"""A network's outputs, batched."""
Report = Callable[[Check], None]


def reference(network: Wrapped, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """An fp32 network's outputs for each row alone, stacked; float32 on the CPU."""
    with torch.inference_mode():
        rows = [network(*(t[i : i + 1] for t in inputs)) for i in range(len(inputs[0]))]
    return tuple(torch.cat(outputs) for outputs in zip(*rows, strict=True))


def compare(backend: str, precision: Precision, got: Outputs, want: Outputs) -> Check:
    """Return the largest errors of `got` over all outputs, and whether they pass."""
    batch = len(got[0])
    if not all(torch.isfinite(output).all() for output in got):
        return Check(backend, batch, "too imprecise", reason="not finite")
    differences = [g.double() - w.double() for g, w in zip(got, want, strict=True)]
    scales = [w.double().norm().clamp_min(1e-30) for w in want]
    relative = max(float(d.norm() / s) for d, s in zip(differences, scales, strict=True))
    max_abs = max(float(d.abs().max()) for d in differences)
    if relative <= TOLERANCE[precision]:
        return Check(backend, batch, "passed", max_abs, relative)
    reason = f"relative error {relative:.1e}"
    return Check(backend, batch, "too imprecise", max_abs, relative, reason)


def check_torch(
    network: Wrapped, precision: Precision, inputs: Sequence[Tensor], want: Outputs | None
) -> Check:
    """Run one row in PyTorch in the target precision; check that it is finite and close to `want`.

    Half precision is emulated, see `export.half_precision`. Without `want`, only finiteness is
    checked.
    """
    with torch.inference_mode(), HalfPrecisionEmulation():
        got = network(*(t[:1] for t in inputs))
    if want is not None:
        return compare("torch", precision, got, [output[:1] for output in want])
    check = compare("torch", precision, got, got)
    return replace(check, max_abs=None, relative=None) if check.status == "passed" else check


def check_entry(
    folder: Path, entry: Entry, inputs: Sequence[Tensor], want: Outputs, report: Report
) -> tuple[Check, ...]:
    """Compare every profile of `entry` with the outputs `want` of PyTorch in fp32.

    `folder` contains the entry's files. It should be temporary, since a manifest of this entry
    alone is written into it.

    A profile that cannot run here (no such backend, another GPU, no kernel for bf16, too little
    memory) is "not run"; if its runtime raises an error, it is "failed". Neither depends on its
    precision.
    """
    Manifest(model=None, entries=(entry,)).save(folder)
    checks: list[Check] = []
    for check in _checks(folder, entry, inputs, want):
        # The folder is temporary, so it must not appear in a reason.
        check = replace(check, reason=check.reason.replace(f"{folder}/", ""))
        report(check)
        checks.append(check)
    return tuple(checks)


def without_memory(entry: Entry) -> tuple[Check, ...]:
    """The checks of an entry if there is too little memory for its reference."""
    return tuple(_not_run(_backend(entry), b, NO_MEMORY) for b in entry.spec.batch_sizes)


def _backend(entry: Entry) -> str:
    return "onnxruntime" if entry.format == "onnx" else entry.format


def affordable(entry: Entry, batches: Sequence[int]) -> int:
    """The largest of `batches` that fits into memory here, or 0; the reference needs as many rows.

    A GPU's memory is left to its runtime. On a CPU, ONNX Runtime stores all attention scores.
    """
    if runs_on_gpu(entry.format):
        return max(batches)
    if 0 < memory.available() < session_bytes(entry.spec, entry.bytes):
        return 0
    spec = replace(entry.spec, batch_sizes=tuple(sorted(batches)))
    return memory.limited(spec, entry.bytes).max_batch


def _checks(folder: Path, entry: Entry, inputs: Sequence[Tensor], want: Outputs) -> Iterator[Check]:
    spec = entry.spec
    name = _backend(entry)
    try:
        networks = _open(folder, entry.format)
    except (ImportError, DiffEditError) as error:
        yield from (_not_run(name, batch, str(error)) for batch in spec.batch_sizes)
        return
    try:
        for batch in spec.batch_sizes:
            yield _profile(networks, name, spec, batch, inputs, want)
    finally:
        networks.close()


def _profile(
    networks: Any, name: str, spec: NetSpec, batch: int, inputs: Sequence[Tensor], want: Outputs
) -> Check:
    if batch > len(want[0]):
        return _not_run(name, batch, NO_MEMORY)
    try:
        backend = networks.find(spec.name, spec.inputs[0].shape)
        if batch not in backend.spec.batch_sizes:
            return _not_run(name, batch, NO_MEMORY)
        named = {
            t.name: x[:batch].to(networks.device).contiguous()
            for t, x in zip(spec.inputs, inputs, strict=True)
        }
        for _ in range(REPLAYS if networks.device.type == "cuda" else 1):
            outputs = backend(named)
        got = [output.cpu() for output in outputs]
    except (MemoryError, torch.OutOfMemoryError):
        return _not_run(name, batch, NO_MEMORY)
    except DiffEditError as error:  # the engine does not fit this machine
        return _not_run(name, batch, first_line(error))
    except Exception as error:  # each runtime raises its own; the reason names it
        reason = first_line(error)
        if spec.precision == "bf16":  # few runtimes have kernels for it on a CPU
            return _not_run(name, batch, reason)
        return Check(name, batch, "failed", reason=reason)
    return compare(name, spec.precision, got, [output[:batch] for output in want])


def _open(folder: Path, kind: Format) -> Any:
    if kind == "onnx":
        from engine.backends.onnxruntime.networks import OnnxNetworks

        return OnnxNetworks.open(folder, digests=None)
    from engine.backends.tensorrt.networks import TensorRTNetworks

    return TensorRTNetworks.open(folder, digests=None)


def _not_run(backend: str, batch: int, reason: str) -> Check:
    return Check(backend, batch, "not run", reason=reason)
