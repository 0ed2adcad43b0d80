"""Rows into a fixed batch and out again: gather, pad, scatter.

The input tensors of each profile are made once and reused, so that a backend may bind or capture
their addresses. Padding repeats the first row: valid data, whose results are thrown away.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.backends import Backend
from engine.rows import Row

TORCH_DTYPES = {"fp32": torch.float32, "int64": torch.int64}


class Buffers:
    """One backend with the persistent inputs of its profiles."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._inputs: dict[int, dict[str, Tensor]] = {}
        self.padded_rows = 0

    def run(self, rows: Sequence[Row]) -> list[Tensor]:
        """Run up to `spec.max_batch` rows in one call; one output per row, owned by the caller."""
        size = self.backend.spec.batch_for(len(rows))
        batch = self._batch(size)
        for position, tensor in enumerate(batch.values()):
            gather([row.inputs[position] for row in rows], tensor)
        self.padded_rows += size - len(rows)
        output = self.backend(batch)
        return list(output[: len(rows)].clone().unbind(0))  # the one copy out of its memory

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
    """Stack examples into the first places of a batch and repeat the first one in the rest."""
    n = len(examples)
    if all(e.device == into.device for e in examples):
        torch.stack([*examples], out=into[:n])
    else:
        into[:n].copy_(torch.stack([*examples]), non_blocking=True)
    if n < len(into):
        into[n:] = into[0]
