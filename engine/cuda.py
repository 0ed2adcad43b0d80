"""CUDA devices, streams, arithmetic and memory, for every backend that uses a GPU.

All networks of a pipeline run on its own `ExecutionStream`. Events order it with the caller's
stream, so the host does not wait. Every call selects its GPU and restores the caller's.
`cuda_graphs` captures the calls.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from engine.backends import DeviceQueue, HostQueue
from engine.errors import EngineMismatch

log = logging.getLogger(__name__)


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
        """Make this the current stream, and its GPU the current one.

        The enqueued work starts after the caller's earlier work, and the caller's later work
        starts after it. The host does not wait.
        """
        with torch.cuda.device(self.device):  # TensorRT and ONNX Runtime use the current GPU
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
        event = torch.cuda.Event(enable_timing=True, blocking=True)
        event.record(torch.cuda.current_stream(self._device))
        return event


def device_queue(device: torch.device) -> DeviceQueue:
    """The queue of networks on `device`."""
    return CudaQueue(device) if device.type == "cuda" else HostQueue()


_PRECISION_LOCK = threading.Lock()


@contextlib.contextmanager
def fp32_arithmetic(allow_tf32: bool) -> Iterator[None]:
    """Enqueue fp32 products and convolutions in fp32, or in TF32 if it is allowed.

    PyTorch's default is TF32 for convolutions: 10 bits of precision instead of 23. Its switches
    apply to the whole process, so they are restored afterwards, and a second thread waits.
    """
    wanted = "tf32" if allow_tf32 else "ieee"
    with _PRECISION_LOCK:
        before = [switch.fp32_precision for switch in _switches()]
        try:
            _set_fp32_precision([wanted] * len(before))
            yield
        finally:
            _set_fp32_precision(before)


def _switches() -> tuple[Any, ...]:
    """PyTorch's switches for convolutions, recurrent layers and products of matrices."""
    cudnn: Any = torch.backends.cudnn
    return cudnn.conv, cudnn.rnn, torch.backends.cuda.matmul


def _set_fp32_precision(values: Sequence[str]) -> None:
    """Set the old switches too: PyTorch refuses to read them if they differ from the new ones."""
    torch.backends.cudnn.allow_tf32 = values[0] == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = values[-1] == "tf32"
    for switch, value in zip(_switches(), values, strict=True):
        switch.fp32_precision = value


def wait_for(device: torch.device) -> None:
    """Wait until the GPU is idle, before memory that it uses is freed.

    An error of the device is only logged, because the memory is freed in any case.
    """
    try:
        torch.cuda.synchronize(device)
    except RuntimeError as error:
        log.warning("%s failed before it was closed: %s", device, str(error).split("\n")[0])


def give_back_memory(device: torch.device) -> None:
    """Release the memory of deleted tensors that PyTorch has cached, for other programs."""
    gc.collect()  # modules refer to themselves
    empty_cache(device)


def empty_cache(device: torch.device) -> None:
    """The same as `give_back_memory`, without running the garbage collector."""
    try:
        with torch.cuda.device(device):
            torch.cuda.empty_cache()
    except RuntimeError as error:
        log.warning("the memory of %s was not freed: %s", device, str(error).split("\n")[0])


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
            f"{runtime} needs an NVIDIA GPU for {chosen}, and {why}; use backend='torch' with "
            "device='cpu' here."
        )
    chosen = numbered(chosen)
    if chosen.index >= count:
        raise EngineMismatch(f"There is no {chosen}: this machine has {count} GPU(s).")
    return chosen
