"""The rows that wait for a call: one queue per network and shape, without duplicates.

Only the engine thread changes them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable

from engine.flow_handle import Handle
from engine.rows import Row

Kind = tuple[str, tuple[int, ...]]
"""A network and the shape of its first input; see `Row.kind`."""


class QueuedRow:
    """A row in a queue, with the flows that wait for it and the index of its answer in each."""

    __slots__ = ("number", "row", "waiters")

    def __init__(self, number: int, row: Row) -> None:
        self.number, self.row = number, row
        self.waiters: list[tuple[Handle, int]] = []

    @property
    def flows(self) -> list[Handle]:
        return [flow for flow, _ in self.waiters if not flow.ended]


class RowQueues:
    """First come, first served. Waiting rows of one kind with equal keys are one entry."""

    def __init__(self) -> None:
        self._queues: dict[Kind, deque[QueuedRow]] = {}
        self._by_key: dict[tuple[Kind, Hashable], QueuedRow] = {}
        self._last_number = 0

    def __len__(self) -> int:
        return sum(len(queue) for queue in [*self._queues.values()])  # another thread may ask

    def add(self, row: Row, flow: Handle, index: int) -> None:
        """Add a row for a flow: to the entry with the same key, or as a new entry."""
        kind = row.kind
        queued = None if row.key is None else self._by_key.get((kind, row.key))
        if queued is None:
            self._last_number += 1
            queued = QueuedRow(self._last_number, row)
            self._queues.setdefault(kind, deque()).append(queued)
            if row.key is not None:
                self._by_key[kind, row.key] = queued
        queued.waiters.append((flow, index))

    def oldest(self) -> QueuedRow | None:
        """The row that has waited longest."""
        heads = [queue[0] for queue in self._queues.values() if queue]
        return min(heads, key=lambda queued: queued.number, default=None)

    def take(self, kind: Kind, limit: int) -> list[QueuedRow]:
        """Remove and return up to `limit` rows of one kind, the oldest first."""
        queue = self._queues[kind]
        batch = [queue.popleft() for _ in range(min(limit, len(queue)))]
        for queued in batch:
            self._by_key.pop((kind, queued.row.key), None)
        return batch

    def remove(self, flow: Handle) -> None:
        """Remove a flow from every entry, and entries for which no flow waits any more."""
        for kind, queue in self._queues.items():
            for queued in queue:
                queued.waiters = [waiter for waiter in queued.waiters if waiter[0] is not flow]
                if not queued.waiters:
                    self._by_key.pop((kind, queued.row.key), None)
            self._queues[kind] = deque(queued for queued in queue if queued.waiters)

    def clear(self) -> None:
        """Remove every row."""
        self._queues.clear()
        self._by_key.clear()
