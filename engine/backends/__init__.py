"""Backends: one protocol, four implementations, each importing its package late.

A `Backend` runs one network at one size; a `Networks` finds the backend for a kind of row.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from engine.netspec import NetSpec, Size


class Backend(Protocol):
    """One network, ready to run.

    `batch` maps every input name of `spec` to a contiguous tensor on `device` whose leading axis is
    one of `spec.batch_sizes`; the same tensors come again at every call of that batch size, so
    their addresses may be captured. The result, float32 on `device`, may be the backend's own
    memory: it holds until the next call, and the caller clones what it keeps.
    """

    spec: NetSpec
    device: torch.device

    def __call__(self, batch: dict[str, Tensor]) -> Tensor: ...


class Networks(Protocol):
    """Every network of one checkpoint on one backend.

    Attributes:
        name: "torch", "onnxruntime", "tensorrt" or "fake".
        device: where rows live.
        sizes: picture sizes it was compiled for; None where any multiple of the VAE factor runs.
    """

    name: str
    device: torch.device
    sizes: tuple[Size, ...] | None

    def find(self, net: str, shape: tuple[int, ...]) -> Backend:
        """The backend for rows of `net` whose first input has `shape`; EngineMismatch if none."""
        ...

    def describe(self) -> str:
        """One line for people: product, version, device, precision."""
        ...

    def close(self) -> None: ...
