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

    device = torch.device("cpu")
    cuda_stream = 7

    def __init__(self, name: str, log: list[str]) -> None:
        self.name = name
        self._log = log

    def wait_stream(self, other: FakeStream) -> None:
        self._log.append(f"{self.name} waits for {other.name}")

    def synchronize(self) -> None:
        self._log.append(f"synchronize {self.name}")


class FakeGraph:
    """A graph that records its capture and its replays, and can fail at one of them."""

    def __init__(self, cuda: FakeCuda) -> None:
        self._cuda = cuda
        self.pool: Any = None
        self.replays = 0

    def capture_begin(self, pool: Any = None, capture_error_mode: str = "global") -> None:
        self.pool = pool
        self._cuda.record("capture_begin", capture_error_mode)

    def capture_end(self) -> None:
        self._cuda.record("capture_end")
        self._cuda.graphs.append(self)

    def replay(self) -> None:
        self.replays += 1
        self._cuda.record("replay")


class FakeCuda:
    """The state of the substitute.

    Attributes:
        log: every event, in order.
        graphs: every graph whose capture succeeded.
        current: the current stream; it starts as the caller's.
        fail: the name of the graph method that raises RuntimeError.
    """

    def __init__(self) -> None:
        self.log: list[str] = []
        self.graphs: list[FakeGraph] = []
        self.caller = self.current = FakeStream("caller", self.log)
        self.fail = ""

    def record(self, event: str, detail: str = "") -> None:
        self.log.append(f"{event} {detail}".strip() + f" on {self.current.name}")
        if event == self.fail:
            raise RuntimeError(f"{event} is not permitted\nand a stack trace")

    @contextlib.contextmanager
    def use(self, stream: FakeStream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Replace the parts of `torch.cuda` that the backends call."""

        def forbidden() -> None:
            raise AssertionError("a capture must not empty PyTorch's cache")

        replacements = {
            "Stream": lambda device: FakeStream("own", self.log),
            "current_stream": lambda device=None: self.current,
            "stream": self.use,
            "CUDAGraph": lambda: FakeGraph(self),
            "synchronize": lambda device=None: self.log.append("synchronize"),
            "graph_pool_handle": lambda: (0, 1),
            "empty_cache": forbidden,
        }
        for name, replacement in replacements.items():
            patch.setattr(torch.cuda, name, replacement)


def aligned(
    shape: int | tuple[int, ...], dtype: torch.dtype = torch.float32, **_: Any
) -> torch.Tensor:
    """Return zeros at a multiple of 256 bytes, as CUDA memory always is."""
    sides = (shape,) if isinstance(shape, int) else shape
    size = math.prod(sides) * dtype.itemsize
    raw = torch.zeros(size + 256, dtype=torch.uint8)
    start = -raw.data_ptr() % 256
    return raw[start : start + size].view(dtype).view(sides)
