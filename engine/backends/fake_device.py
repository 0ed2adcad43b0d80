"""A simulated device: calls return immediately and finish later, in order, as on a GPU.

Its time is virtual and passes only while the host waits for an event, so tests of device time are
exact and quick.
"""

from __future__ import annotations

import heapq
import itertools
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass


class FakeDevice:
    """An `engine.backends.DeviceQueue` with simulated time.

    Args:
        seconds: (network, rows in the call) -> how long it runs; `math.inf` never finishes.
        in_flight: how many calls the host may launch ahead.

    Attributes:
        now: the time, in seconds.
        calls: (network, rows, time at which it is finished) of every call that was launched.
    """

    def __init__(
        self, seconds: Callable[[str, int], float] = lambda net, rows: 1.0, *, in_flight: int = 2
    ) -> None:
        self.in_flight = in_flight
        self.now = 0.0
        self.calls: list[tuple[str, int, float]] = []
        self._seconds = seconds
        self._plan: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()
        self._failed = threading.Event()
        self._error: Exception | None = None

    def launch(self, net: str, rows: int) -> None:
        """Queue a call behind those before it."""
        finished = max(self.now, self._free_at) + self._seconds(net, rows)
        self.calls.append((net, rows, finished))

    def record(self) -> FakeEvent:
        return FakeEvent(self, max(self.now, self._free_at))

    def at(self, time: float, action: Callable[[], object]) -> None:
        """Call `action` when the clock reaches `time`, for example to submit an edit."""
        heapq.heappush(self._plan, (time, next(self._order), action))

    def fail(self, error: Exception) -> None:
        """Simulate a lost device: every later use of an event raises `error`."""
        self._error = error
        self._failed.set()

    def check(self) -> None:
        """Raise the error of `fail`."""
        if self._error is not None:
            raise self._error

    def wait_until(self, time: float) -> None:
        """Advance the clock. An infinite wait ends when another thread calls `fail`."""
        while self._plan and self._plan[0][0] <= time:
            due, _, action = heapq.heappop(self._plan)
            self.now = max(self.now, due)
            action()
        if math.isinf(time):
            self._failed.wait()
        self.check()
        self.now = max(self.now, time)

    @property
    def _free_at(self) -> float:
        """The time at which all launched calls are finished."""
        return self.calls[-1][2] if self.calls else 0.0


@dataclass(frozen=True)
class FakeEvent:
    """An `engine.backends.Event`: a point in the time of a `FakeDevice`."""

    device: FakeDevice
    time: float

    def query(self) -> bool:
        self.device.check()
        return self.device.now >= self.time

    def synchronize(self) -> None:
        self.device.wait_until(self.time)

    def elapsed_time(self, end_event: FakeEvent) -> float:
        return 1000 * (end_event.time - self.time)
