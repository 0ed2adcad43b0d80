"""Backends: one protocol, four implementations. Each imports its runtime package when opened.

A `Backend` runs one network at one size. A `Networks` finds the backend for a kind of row. Its
`DeviceQueue` records when the device has finished the launched work.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from engine.manifest import FusedFile
from engine.netspec import NetSpec, Size


class Backend(Protocol):
    """One network, ready to run.

    `__call__(batch)`: `batch` maps every input name of `spec` to a contiguous tensor on `device`
    whose leading axis is one of `spec.batch_sizes`. The same tensors are passed in every call of
    that batch size, so their addresses may be captured. Returns one float32 tensor on `device` for
    each of `spec.outputs`. The outputs belong to the backend and are valid until its next call;
    clone them to keep them.
    """

    spec: NetSpec
    device: torch.device

    def __call__(self, batch: dict[str, Tensor]) -> tuple[Tensor, ...]: ...


class Event(Protocol):
    """A point in the work of a device; `torch.cuda.Event` is one."""

    def query(self) -> bool:
        """Whether the device has reached it. Raises the device's error if the work failed."""
        ...

    def synchronize(self) -> None:
        """Wait until the device has reached it. Raises as `query` does."""
        ...

    def elapsed_time(self, end_event: Any) -> float:
        """Milliseconds of device time from this event to a later one, both of which are reached."""
        ...


class DeviceQueue(Protocol):
    """The work that was launched on a device, in order.

    Attributes:
        in_flight: maximum number of launched calls that are not finished: 2 on a GPU, one running
            and one queued. With more, new requests would wait longer.
    """

    in_flight: int

    def record(self) -> Event:
        """An event that is reached when all work launched so far is finished."""
        ...


class HostQueue:
    """The queue of networks that run on the calling thread: a call that returned is finished."""

    in_flight = 1

    def record(self) -> Event:
        """The moment of this call."""
        return HostEvent(time.perf_counter())


@dataclass(frozen=True)
class HostEvent:
    """A point in time on the calling thread. It is reached immediately.

    Attributes:
        time: in seconds of `time.perf_counter`.
    """

    time: float

    def query(self) -> bool:
        """True."""
        return True

    def synchronize(self) -> None:
        """Return immediately."""

    def elapsed_time(self, end_event: HostEvent) -> float:
        """Milliseconds from this moment to a later one."""
        return 1000 * (end_event.time - self.time)


@dataclass(frozen=True)
class Details:
    """How the networks of a backend compute, for the record of a result.

    Attributes:
        precision: such as "bf16", or "fp16 with vae_decode in fp32".
        kernels: the names of this project's CPU kernels that are in use.
        loras: the LoRA files that are fused into the weights.
        embeddings: the files of the textual inversions that are added.
    """

    precision: str
    kernels: tuple[str, ...] = ()
    loras: tuple[FusedFile, ...] = ()
    embeddings: tuple[FusedFile, ...] = ()


class Networks(Protocol):
    """Every network of one checkpoint on one backend.

    Attributes:
        name: "torch", "onnxruntime", "tensorrt" or "fake".
        device: the device of rows and answers.
        queue: the work launched on `device`.
        sizes: the picture sizes it was compiled for; None if any multiple of the VAE factor runs.
    """

    name: str
    device: torch.device
    queue: DeviceQueue
    sizes: tuple[Size, ...] | None

    def find(self, net: str, shape: tuple[int, ...]) -> Backend:
        """The backend for rows of `net` whose first input has `shape`. Raises EngineMismatch."""
        ...

    def describe(self) -> str:
        """One readable line: product, version, device, precision."""
        ...

    def details(self) -> Details:
        """Precision, kernels and fused files."""
        ...

    def close(self) -> None:
        """Release the networks and their memory."""
        ...
