"""Convert rows to a batch of fixed size and back: gather, pad, run, split.

The input tensors of each profile are allocated once and reused, so that a backend may bind or
capture their addresses. Padding repeats the first row; its outputs are dropped.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.backends import Backend
from engine.dtypes import TORCH_DTYPES
from engine.rows import Answer, Row


class Buffers:
    """One backend and the persistent input tensors of its profiles."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.padded_rows = 0
        self._inputs: dict[int, dict[str, Tensor]] = {}

    def run(self, rows: Sequence[Row]) -> list[Answer]:
        """Run up to `spec.max_batch` rows in one call. Returns one answer per row, which the caller
        may keep."""
        size = self.backend.spec.batch_for(len(rows))
        batch = self._batch(size)
        for position, tensor in enumerate(batch.values()):
            gather([row.inputs[position] for row in rows], tensor)
        self.padded_rows += size - len(rows)
        # The only copy: a backend reuses its output memory in the next call.
        outputs = [out[: len(rows)].clone().unbind(0) for out in self.backend(batch)]
        if len(outputs) == 1:
            return [*outputs[0]]
        return [*zip(*outputs, strict=True)]

    def _batch(self, size: int) -> dict[str, Tensor]:
        if size not in self._inputs:
            self._inputs[size] = {
                spec.name: torch.zeros(
                    (size, *spec.shape), dtype=TORCH_DTYPES[spec.dtype], device=self.backend.device
                )
                for spec in self.backend.spec.inputs
            }
        return self._inputs[size]


def gather(examples: Sequence[Tensor], into: Tensor) -> None:
    """Stack examples into the first rows of a batch; repeat the first one in the rest."""
    n = len(examples)
    if all(e.device == into.device for e in examples):
        torch.stack([*examples], out=into[:n])
    else:
        into[:n].copy_(torch.stack([*examples]), non_blocking=True)
    if n < len(into):
        into[n:] = into[0]


def to_host(tensor: Tensor) -> Tensor:
    """Copy a tensor to the CPU.

    From a GPU, the copy into pinned memory is queued behind the work launched so far, and the host
    does not wait: the copy is complete when that work is.
    """
    with torch.inference_mode(False), torch.no_grad():
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
        return host.copy_(tensor, non_blocking=True)
