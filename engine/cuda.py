"""CUDA devices, streams and graphs, for every backend that uses a GPU.

Streams follow one rule: compiled networks and CUDA graphs run on the pipeline's own
`ExecutionStream`, and events order it with the caller's stream, so the host does not wait. Graphs
are captured by `capture` alone. This module does not know networks, files or runtimes.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch

from engine.backends import DeviceQueue, HostQueue
from engine.errors import EngineMismatch

log = logging.getLogger(__name__)

T = TypeVar("T")


class ExecutionStream:
    """The CUDA stream on which all networks of one pipeline run, one call after another.

    TensorRT would synchronize the device on every call on CUDA's default stream.

    Attributes:
        device: the GPU.
        stream: the stream itself.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)

    @property
    def handle(self) -> int:
        """The stream's address, as C libraries take it."""
        return self.stream.cuda_stream

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Make this the current stream.

        The enqueued work starts after the caller's earlier work, and the caller's later work
        starts after it. The host does not wait.
        """
        caller = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(caller)
        try:
            with torch.cuda.stream(self.stream):
                yield
        finally:
            caller.wait_stream(self.stream)


class CudaQueue:
    """The work on a GPU, as the current stream orders it. An `engine.backends.DeviceQueue`."""

    in_flight = 2

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def record(self) -> torch.cuda.Event:
        """An event on the current stream. Waiting for it lets the processor sleep."""
        event = torch.cuda.Event(blocking=True)
        event.record(torch.cuda.current_stream(self._device))
        return event


def device_queue(device: torch.device) -> DeviceQueue:
    """The queue of networks on `device`."""
    return CudaQueue(device) if device.type == "cuda" else HostQueue()


def capture(
    stream: ExecutionStream, call: Callable[[], T], pool: Any = None
) -> tuple[torch.cuda.CUDAGraph, T]:
    """Record the work that `call` enqueues on `stream`; return the graph and the call's result.

    Other threads may use the GPU meanwhile ("thread_local" mode). In contrast to
    `torch.cuda.graph`, this keeps PyTorch's cache of memory and restores the current stream after
    every error.

    Args:
        stream: the stream to record.
        call: enqueues the work, on the current stream or on `stream.handle`.
        pool: a memory pool that several graphs share; None creates one.

    Raises:
        RuntimeError: the work cannot be captured.
    """
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize(stream.device)
    with torch.cuda.stream(stream.stream):
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        try:
            result = call()
        except BaseException:
            with contextlib.suppress(RuntimeError):  # the error of `call` is the cause
                graph.capture_end()
            raise
        graph.capture_end()
    return graph, result


def try_capture(
    stream: ExecutionStream, call: Callable[[], T], *, label: str, pool: Any = None
) -> tuple[torch.cuda.CUDAGraph, T] | None:
    """Capture as `capture` does, or log a warning about `label` and return None."""
    try:
        return capture(stream, call, pool)
    except RuntimeError as error:
        warn_no_graph(label, str(error).split("\n")[0])
        return None


def warn_no_graph(label: str, reason: str) -> None:
    """Log that the network `label` runs without a CUDA graph."""
    log.warning("No CUDA graph for %s (%s); it runs without one, a little slower.", label, reason)


def numbered(device: torch.device) -> torch.device:
    """Return the device with its number, as tensors report it: "cuda" is torch's current GPU."""
    return torch.device("cuda", torch.cuda.current_device()) if str(device) == "cuda" else device


def cuda_device(device: str | None, runtime: str) -> torch.device:
    """Return the GPU to run on, with its number.

    Args:
        device: "cuda" or "cuda:1"; None is torch's current GPU.
        runtime: the runtime that needs the GPU, for the error message.

    Raises:
        EngineMismatch: the device is not a GPU, or this machine has no such GPU.
    """
    chosen = torch.device(device or "cuda")
    if chosen.type != "cuda":
        raise EngineMismatch(f"{runtime} runs on NVIDIA GPUs only, not on {chosen}.")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        cpu_only = torch.version.cuda is None
        why = "this PyTorch has no CUDA" if cpu_only else "none with a working driver was found"
        raise EngineMismatch(
            f"{runtime} engines need an NVIDIA GPU, and {why}; use backend='onnxruntime' or "
            "backend='torch' here."
        )
    chosen = numbered(chosen)
    if chosen.index >= count:
        raise EngineMismatch(f"There is no {chosen}: this machine has {count} GPU(s).")
    return chosen
