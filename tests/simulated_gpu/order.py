"""Which work is known to be complete before which: vector clocks of streams and of the host.

Every operation on a stream has a number. The clock of a stream holds, for every stream, the number
of the last operation that is complete before the next operation of this stream begins. An event is
a copy of a clock. The host has one clock for all threads.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

Clock = dict[int, int]


class GpuFault(RuntimeError):
    """A fault that a real GPU might show only sometimes, or never report."""


def merge(into: Clock, other: Clock) -> None:
    """Everything that `other` knows to be complete is known to `into`, too."""
    for stream, number in other.items():
        into[stream] = max(into.get(stream, 0), number)


@dataclass(frozen=True)
class Use:
    """One operation on a stream."""

    stream: int
    number: int
    name: str

    def before(self, clock: Clock) -> bool:
        return clock.get(self.stream, 0) >= self.number

    def __str__(self) -> str:
        return f"{self.name} on {stream_name(self.stream)}"


class Allocator:
    """Bytes of the GPU: in use, and kept by PyTorch's allocator."""

    used = kept = 0

    @classmethod
    def empty_cache(cls) -> None:
        if current_stream().capture is not None:
            raise RuntimeError("a capture must not empty PyTorch's cache")
        cls.kept = cls.used


@dataclass(eq=False)
class Memory:
    """One allocation: the last write, and the reads since then.

    Attributes:
        stream: where it was allocated; None for the host's memory.
        size: in bytes, on the GPU.
        freed: receives the uses that may be pending when the memory is freed.
    """

    stream: int | None
    size: int = 0
    freed: list[Use] | None = None
    write: Use | None = None
    reads: dict[int, Use] = field(default_factory=dict)

    def uses(self) -> Iterator[Use]:
        if self.write is not None:
            yield self.write
        yield from self.reads.values()

    def read_by(self, use: Use, clock: Clock) -> None:
        if self.write is not None and not self.write.before(clock):
            raise GpuFault(f"Race: {use} reads what {self.write} may not have written yet.")
        self.reads[use.stream] = use

    def written_by(self, use: Use, clock: Clock) -> None:
        for other in self.uses():
            if not other.before(clock):
                raise GpuFault(f"Race: {use} overwrites what {other} may still use.")
        self.write, self.reads = use, {}

    def __del__(self) -> None:
        Allocator.used -= self.size
        if self.freed is not None:
            self.freed.extend(use for use in self.uses() if use.stream != self.stream)


class Stream:
    """A stream of the simulated GPU; takes the place of `torch.cuda.Stream`.

    Attributes:
        number: tells streams apart.
        capture: the graph that records this stream now.
    """

    _numbers = itertools.count(1)

    def __init__(self, device: object = None, priority: int = 0, **options: object) -> None:
        self.number = next(Stream._numbers)
        self.clock: Clock = {}
        self.capture: Any = None
        self._freed: list[Use] = []

    @property
    def cuda_stream(self) -> int:
        return self.number

    def next(self, name: str) -> Use:
        """The next operation, which begins after everything that the host knows to be complete."""
        merge(self.clock, HOST)
        number = self.clock[self.number] = LAST[self.number] = self.clock.get(self.number, 0) + 1
        return Use(self.number, number, name)

    def allocate(self, size: int, writer: Use) -> Memory:
        """New memory, perhaps that of a tensor which was freed on this stream."""
        pending, self._freed[:] = [use for use in self._freed if not use.before(self.clock)], []
        if pending:
            raise GpuFault(
                f"Freed memory of {stream_name(self.number)} may be handed out again while "
                f"{pending[0]} still uses it."
            )
        Allocator.used += size
        Allocator.kept = max(Allocator.kept, Allocator.used)
        return Memory(self.number, size, self._freed, writer)

    def wait_stream(self, other: Stream) -> None:
        merge(self.clock, other.clock)

    def wait_event(self, event: Event) -> None:
        merge(self.clock, event.clock)

    def record_event(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def synchronize(self) -> None:
        host_waits(self, "synchronize")
        merge(HOST, self.clock)

    def query(self) -> bool:
        merge(HOST, self.clock)
        return True


class Event:
    """An event; takes the place of `torch.cuda.Event`. Its work is complete when it is asked."""

    def __init__(self, **options: object) -> None:
        self.clock: Clock = {}
        self._seconds = 0.0

    def record(self, stream: Stream | None = None) -> None:
        self.clock = dict((stream or current_stream()).clock)
        self._seconds = time.perf_counter()

    def wait(self, stream: Stream | None = None) -> None:
        (stream or current_stream()).wait_event(self)

    def synchronize(self) -> None:
        merge(HOST, self.clock)

    def query(self) -> bool:
        self.synchronize()
        return True

    def elapsed_time(self, end: Event) -> float:
        """Milliseconds."""
        return max(1e3 * (end._seconds - self._seconds), 1e-3)


LAST: Clock = {}
"""The last operation of every stream, also of those that are gone."""
HOST: Clock = {}
"""What the host knows to be complete."""
DEFAULT = Stream()
"""CUDA's default stream."""
_threads = threading.local()


def stream_name(number: int) -> str:
    return "the default stream" if number == DEFAULT.number else f"stream {number}"


def current_stream(device: object = None) -> Stream:
    """The stream of this thread."""
    found: Stream = getattr(_threads, "stream", DEFAULT)
    return found


@contextlib.contextmanager
def use_stream(stream: Stream | None) -> Iterator[None]:
    """Takes the place of `torch.cuda.stream`."""
    before = current_stream()
    _threads.stream = stream or before
    try:
        yield
    finally:
        _threads.stream = before


def synchronize(device: object = None) -> None:
    """Takes the place of `torch.cuda.synchronize`."""
    host_waits(current_stream(), "synchronize")
    merge(HOST, LAST)


class Waits:
    """What happens when the host waits: `mode` is that of `set_sync_debug_mode`.

    `torch.cuda.synchronize` and events are not counted, as in PyTorch: they wait on purpose.
    """

    mode = "default"
    count = 0

    @classmethod
    def set_mode(cls, mode: str | int) -> None:
        names = ("default", "warn", "error")
        cls.mode = names[mode] if isinstance(mode, int) else mode


def host_waits(stream: Stream, what: str) -> None:
    """The host waits for a stream. Raises where that is forbidden; counts otherwise."""
    if stream.capture is not None:
        raise RuntimeError(f"CUDA error: {what}: operation not permitted when stream is capturing")
    if what == "synchronize":
        return
    Waits.count += 1
    if Waits.mode == "error":
        raise RuntimeError(f"called a synchronizing CUDA operation: {what}")
    if Waits.mode == "warn":
        warnings.warn(f"called a synchronizing CUDA operation: {what}", stacklevel=_caller())


def _caller() -> int:
    """The level of the innermost frame outside of this simulation and of PyTorch."""
    for level, frame in enumerate(reversed(traceback.extract_stack())):
        if "simulated_gpu" not in frame.filename and "/torch/" not in frame.filename:
            return level
    return 1
