"""Backends: one protocol, four implementations. Each imports its runtime package when opened.

A `Backend` runs one network at one size. A `Networks` finds the backend for a kind of row. Its
`DeviceQueue` says when the device has finished what was launched.
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
    each of `spec.outputs`. The memory belongs to the backend and is valid until its next call; the
    caller clones what it keeps.
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
        """Milliseconds of device time from this event to a later one. Both were reached."""
        ...


class DeviceQueue(Protocol):
    """The work that was launched on a device, in order.

    Attributes:
        in_flight: how many calls may be launched and not finished: 2 on a GPU, one that runs and
            one behind it. More would run ahead of requests that arrive later.
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
    """A moment on the calling thread. It is reached at once.

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
    """What the networks of a backend compute with, for the record of a result.

    Attributes:
        precision: such as "bf16", or "fp16 with vae_decode in fp32".
        kernels: the names of this project's CPU kernels that are in use.
        loras, embeddings: what is fused into the weights.
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
        """One line for people: product, version, device, precision."""
        ...

    def details(self) -> Details:
        """What it computes with."""
        ...

    def close(self) -> None:
        """Release the networks and their memory."""
        ...
