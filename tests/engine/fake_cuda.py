"""A substitute for `torch.cuda` on machines without a GPU: it records streams, waits and graphs."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch


class FakeStream:
    """A stream that records what it waits for."""

    cuda_stream = 7

    def __init__(self, name: str, log: list[str], gpu: int = 0) -> None:
        self.name = f"{name} of gpu {gpu}" if gpu else name
        self.gpu = gpu
        self._log = log

    def wait_stream(self, other: FakeStream) -> None:
        self._log.append(f"{self.name} waits for {other.name}")

    def synchronize(self) -> None:
        self._log.append(f"synchronize {self.name}")


class FakeEvent:
    """An event that records where it was recorded."""

    def __init__(self, cuda: FakeCuda, **options: bool) -> None:
        self._cuda = cuda

    def record(self, stream: FakeStream) -> None:
        self._cuda.log.append(f"event on {stream.name}")

    def synchronize(self) -> None:
        self._cuda.log.append("wait for an event")


class FakeGraph:
    """A graph that records its capture and its replays, and can fail at one of them."""

    def __init__(self, cuda: FakeCuda) -> None:
        self._cuda = cuda
        self.pool: Any = None
        self.replays = 0

    def capture_begin(self, pool: Any = None, capture_error_mode: str = "global") -> None:
        self.pool = pool
        self._cuda.capturing = True
        self._cuda.record("capture_begin", capture_error_mode)

    def capture_end(self) -> None:
        self._cuda.capturing = False
        self._cuda.record("capture_end")
        self._cuda.graphs.append(self)

    def replay(self) -> None:
        self.replays += 1
        self._cuda.record("replay")


class FakeCuda:
    """The state of the substitute: two GPUs.

    Attributes:
        log: every event, in order.
        graphs: every graph whose capture succeeded.
        current: the current stream; it starts as the caller's.
        gpu: the current GPU.
        fail: the name of the event that raises `error`.
        capturing: whether a capture has begun and not ended.
    """

    def __init__(self) -> None:
        self.log: list[str] = []
        self.graphs: list[FakeGraph] = []
        self.caller = self.current = FakeStream("caller", self.log)
        self.gpu = 0
        self.fail = ""
        self.error: type[RuntimeError] = RuntimeError
        self.capturing = False

    def record(self, event: str, detail: str = "") -> None:
        self.log.append(f"{event} {detail}".strip() + f" on {self.current.name}")
        assert self.gpu == self.current.gpu, "the current GPU is not the stream's"
        if event == self.fail:
            raise self.error(f"{event} is not permitted\nand a stack trace")

    @contextlib.contextmanager
    def use(self, stream: FakeStream) -> Iterator[None]:
        before, self.current = self.current, stream
        with self.use_gpu(torch.device("cuda", stream.gpu)):
            try:
                yield
            finally:
                self.current = before

    @contextlib.contextmanager
    def use_gpu(self, device: torch.device) -> Iterator[None]:
        before, self.gpu = self.gpu, device.index or 0
        try:
            yield
        finally:
            self.gpu = before

    def stream_of(self, device: torch.device | None = None) -> FakeStream:
        """The current stream of a GPU; the caller's if another GPU is the current one."""
        gpu = self.gpu if device is None else device.index or 0
        return self.current if gpu == self.current.gpu else FakeStream("caller", self.log, gpu)

    def empty_cache(self) -> None:
        assert not self.capturing, "a capture must not empty PyTorch's cache"
        self.log.append(f"empty_cache of gpu {self.gpu}")

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Replace the parts of `torch.cuda` that the backends call."""
        replacements = {
            "Stream": lambda device: FakeStream("own", self.log, device.index or 0),
            "Event": lambda **options: FakeEvent(self, **options),
            "current_stream": self.stream_of,
            "stream": self.use,
            "device": self.use_gpu,
            "CUDAGraph": lambda: FakeGraph(self),
            "synchronize": lambda device=None: self.log.append("synchronize"),
            "graph_pool_handle": lambda: (0, 1),
            "empty_cache": self.empty_cache,
        }
        for name, replacement in replacements.items():
            patch.setattr(torch.cuda, name, replacement)
        for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
            patch.setattr(torch._C, name, lambda gpu, pool, n=name: self.log.append(f"{n} {gpu}"))


def aligned(
    shape: int | tuple[int, ...], dtype: torch.dtype = torch.float32, **_: Any
) -> torch.Tensor:
    """Return zeros at a multiple of 256 bytes, as CUDA memory always is."""
    sides = (shape,) if isinstance(shape, int) else shape
    size = math.prod(sides) * dtype.itemsize
    raw = torch.zeros(size + 256, dtype=torch.uint8)
    start = -raw.data_ptr() % 256
    return raw[start : start + size].view(dtype).view(sides)
