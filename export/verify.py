"""Every profile of every backend that runs here, against torch in fp32 on the CPU.

The reference is computed one row at a time, once, for the largest batch: rows are independent, so
its first b rows serve profile b, and a backend in which rows of a batch touch is caught.
It knows no checkpoint and no command line: networks, inputs and a folder with a manifest come in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.backends.onnxruntime import memory
from engine.errors import DiffEditError
from engine.manifest import Entry, Manifest
from engine.netspec import NetSpec, Precision
from engine.products import PRODUCTS
from export.half_precision import HalfPrecisionEmulation
from export.networks import Wrapped

TOLERANCE: dict[Precision, float] = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 5e-2}
"""The largest relative error, ||got - want|| / ||want|| over a whole batch, that passes.

Random networks of every kind measured 2e-6 (fp32), 1.5e-3 (fp16) and 1.2e-2 (bf16) in onnxruntime
and torch; a deep network and another order of summation cost several times that. A wrong axis,
scale or timestep costs 1e-1 and more, so the limits stand between the two."""

REPLAYS = 3
"""Calls of each profile on a GPU: the first binds, the second captures a graph, the third replays
it, and the last one's answer is compared. A CPU's call is the same each time: one is enough."""

Check = dict[str, Any]
"""A row of `Entry.checks`: backend, batch, max_abs, relative, ok (None: not run), reason."""
Report = Callable[[Check], None]


def reference(network: Wrapped, inputs: Sequence[Tensor]) -> Tensor:
    """What an fp32 network answers to each row alone, stacked; float32 on the CPU."""
    with torch.inference_mode():
        rows = [network(*(t[i : i + 1] for t in inputs)) for i in range(len(inputs[0]))]
    return torch.cat(rows)


def compare(backend: str, precision: Precision, got: Tensor, want: Tensor) -> Check:
    """One row: the errors of `got` and whether they pass for `precision`."""
    row: Check = {"backend": backend, "batch": len(got)}
    if not torch.isfinite(got).all():
        return row | {"max_abs": None, "relative": None, "ok": False, "reason": "not finite"}
    difference = got.double() - want.double()
    scale = want.double().norm().clamp_min(1e-30)
    relative = float(difference.norm() / scale)
    ok = relative <= TOLERANCE[precision]
    errors = {"max_abs": float(difference.abs().max()), "relative": relative, "ok": ok}
    return row | errors | ({} if ok else {"reason": f"relative error {relative:.1e}"})


def check_torch(
    network: Wrapped, precision: Precision, inputs: Sequence[Tensor], want: Tensor | None
) -> Check:
    """One row in torch at the target precision: finite, and near `want` where that is given.

    See `export.half_precision` for how half precision is computed here.
    """
    with torch.inference_mode(), HalfPrecisionEmulation():
        got = network(*(t[:1] for t in inputs))
    if want is not None:
        return compare("torch", precision, got, want[:1])
    row = compare("torch", precision, got, got)
    return row | ({"max_abs": None, "relative": None} if row["ok"] else {})


def check_entry(
    folder: Path, entry: Entry, inputs: Sequence[Tensor], want: Tensor, report: Report
) -> tuple[Check, ...]:
    """Every profile of `entry`, whose files lie in `folder`, against `want`.

    Writes a manifest of this entry alone into `folder`, so `folder` is a temporary one.

    A profile that cannot run here (no such backend, no kernel for bf16, too little memory) gets a
    row with `ok` None and the reason; one that answers wrongly or fails gets `ok` False.
    """
    Manifest(model={}, entries=(entry,)).save(folder)
    rows: list[Check] = []
    for row in _rows(folder, entry, inputs, want):
        if "reason" in row:  # a sentence about a file names a place that is about to go
            row["reason"] = row["reason"].replace(f"{folder}/", "")
        report(row)
        rows.append(row)
    return tuple(rows)


def runnable(kind: str) -> bool:
    """Whether entries of this format can be run on this machine."""
    return PRODUCTS[kind].installed and (kind == "onnx" or torch.cuda.is_available())


def affordable(entry: Entry, batches: Sequence[int]) -> int:
    """The largest of `batches` that fits into memory here: so many rows the reference needs.

    A GPU's memory is left to its runtime; on a CPU onnxruntime writes attention's scores out.
    """
    if entry.format != "onnx" or torch.cuda.is_available():
        return max(batches)
    spec = replace(entry.spec, batch_sizes=tuple(sorted(batches)))
    return memory.limited(spec, sum(file.bytes for file in entry.files)).max_batch


def _rows(folder: Path, entry: Entry, inputs: Sequence[Tensor], want: Tensor) -> Iterator[Check]:
    spec = entry.spec
    name = "onnxruntime" if entry.format == "onnx" else entry.format
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
    networks: Any, name: str, spec: NetSpec, batch: int, inputs: Sequence[Tensor], want: Tensor
) -> Check:
    if batch > len(want):
        return _not_run(name, batch, "needs more memory than this machine has free")
    try:
        backend = networks.find(spec.name, spec.inputs[0].shape)
        if batch not in backend.spec.batch_sizes:
            return _not_run(name, batch, "needs more memory than this machine has free")
        named = {
            t.name: x[:batch].to(networks.device).contiguous()
            for t, x in zip(spec.inputs, inputs, strict=True)
        }
        for _ in range(REPLAYS if networks.device.type == "cuda" else 1):
            got = backend(named)
        got = got.cpu()
    except (MemoryError, torch.OutOfMemoryError):
        return _not_run(name, batch, "needs more memory than this machine has free")
    except Exception as error:  # each runtime has errors of its own; the sentence says which
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else repr(error)
        row = _not_run(name, batch, reason)
        return row if spec.precision == "bf16" else row | {"ok": False}
    return compare(name, spec.precision, got, want[:batch])


def _open(folder: Path, kind: str) -> Any:
    if kind == "onnx":
        from engine.backends.onnxruntime.networks import OnnxNetworks

        return OnnxNetworks.open(folder, digests=None)
    from engine.backends.tensorrt.networks import TensorRTNetworks

    return TensorRTNetworks.open(folder, digests=None)


def _not_run(backend: str, batch: int, reason: str) -> Check:
    empty = {"max_abs": None, "relative": None, "ok": None}
    return {"backend": backend, "batch": batch} | empty | {"reason": reason}
