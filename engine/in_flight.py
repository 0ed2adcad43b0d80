"""The calls that were launched on the device and are not finished, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

from engine.backends import DeviceQueue, Event
from engine.flow_handle import Handle
from engine.network_calls import TimedCall


class Launched(NamedTuple):
    """The work that one step launched, and what to do when the device has finished it.

    Attributes:
        event: reached when the call, and the arithmetic of the flows that it answered, are done.
        net: the network that was called.
        rows, calls: how many of each flow were answered.
        returned: flows that ended, and their results.
        timed: the calls, to be timed.
    """

    event: Event
    net: str
    rows: dict[Handle, int]
    calls: dict[Handle, int]
    returned: list[tuple[Handle, Any]]
    timed: list[TimedCall]


class InFlight:
    """At most as many launched calls as the device should have, so that new requests can join."""

    def __init__(self, queue: DeviceQueue) -> None:
        self._queue = queue
        self._launched: deque[Launched] = deque()

    def __len__(self) -> int:
        return len(self._launched)

    @property
    def full(self) -> bool:
        """Whether the device has enough to do."""
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
        """Remove and yield what the device has finished. With `wait`, wait for the oldest first.

        Raises the device's error. It cannot be attributed to a flow.
        """
        if wait and self._launched:
            self._launched[0].event.synchronize()
        while self._launched and self._launched[0].event.query():
            yield self._launched.popleft()

    def clear(self) -> None:
        """Forget everything; nobody waits for it any more."""
        self._launched.clear()
