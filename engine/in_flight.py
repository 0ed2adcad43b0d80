"""The calls that were launched on the device and are not finished, in order."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable, Iterator
from typing import Any, NamedTuple

from engine.backends import DeviceQueue, Event
from engine.flow_handle import Handle
from engine.network_calls import TimedCall


class Launched(NamedTuple):
    """The work that one step launched.

    Attributes:
        event: reached when the call and the following arithmetic of its flows are done.
        net: the network that was called.
        rows, calls: flow -> number of rows and calls.
        returned: flows that ended, and their results.
        timed: the calls, to be timed.
    """

    event: Event
    net: str
    rows: dict[Handle, int]
    calls: dict[Handle, int]
    returned: list[tuple[Handle, Any]]
    timed: list[TimedCall]

    @property
    def rows_by_group(self) -> Counter[Hashable]:
        """Group of flows -> number of rows."""
        found: Counter[Hashable] = Counter()
        for flow, rows in self.rows.items():
            found[flow.group] += rows
        return found


class InFlight:
    """The launched calls, whose number is limited so that new requests can join soon."""

    def __init__(self, queue: DeviceQueue) -> None:
        self._queue = queue
        self._launched: deque[Launched] = deque()

    def __len__(self) -> int:
        return len(self._launched)

    @property
    def full(self) -> bool:
        """Whether the maximum number of calls is in flight."""
        return len(self._launched) >= self._queue.in_flight

    def record(
        self,
        net: str,
        rows: dict[Handle, int],
        calls: dict[Handle, int],
        returned: list[tuple[Handle, Any]],
        timed: list[TimedCall],
    ) -> None:
        """Add all work that was launched since the last record."""
        self._launched.append(Launched(self._queue.record(), net, rows, calls, returned, timed))

    def finished(self, *, wait: bool) -> Iterator[Launched]:
        """Remove and yield the finished work. With `wait`, wait for the oldest first.

        Raises the device's error, which cannot be attributed to a flow.
        """
        if wait and self._launched:
            self._launched[0].event.synchronize()
        while self._launched and self._launched[0].event.query():
            yield self._launched.popleft()

    def clear(self) -> None:
        """Drop all launched work without waiting for it."""
        self._launched.clear()
