"""The rows that wait for a call: one queue per network and shape, without duplicates.

Only the engine thread changes them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Sequence

from engine.flow_handle import Handle
from engine.rows import Row

Kind = tuple[str, tuple[int, ...]]
"""A network and the shape of its first input; see `Row.kind`."""

ANY = object()
"""In place of a group: every group."""


class QueuedRow:
    """A row in a queue, with the flows that wait for it and the index of its answer in each."""

    __slots__ = ("number", "row", "waiters")

    def __init__(self, number: int, row: Row) -> None:
        self.number, self.row = number, row
        self.waiters: list[tuple[Handle, int]] = []

    @property
    def groups(self) -> set[Hashable]:
        """The groups of the flows that wait for it."""
        return {flow.group for flow, _ in self.waiters}

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

    def groups(self) -> set[Hashable]:
        """The groups of the flows that wait."""
        return {group for queue in self._queues.values() for one in queue for group in one.groups}

    def oldest(self, group: Hashable = ANY) -> QueuedRow | None:
        """The row that has waited longest, of one group or of any."""
        heads = [
            next((one for one in queue if group is ANY or group in one.groups), None)
            for queue in self._queues.values()
        ]
        found = [queued for queued in heads if queued is not None]
        return min(found, key=lambda queued: queued.number, default=None)

    def count(self, kind: Kind, group: Hashable) -> int:
        """Number of rows of one kind that a group waits for."""
        return sum(group in queued.groups for queued in self._queues[kind])

    def take(self, kind: Kind, limit: int, order: Sequence[Hashable] = ()) -> list[QueuedRow]:
        """Remove and return up to `limit` rows of one kind, the oldest first.

        With an order of the groups: those of the first group, then one of each other group in turn.
        """
        queue = self._queues[kind]
        if order:
            batch = _in_turns(queue, limit, order)
            taken = {queued.number for queued in batch}
            self._queues[kind] = deque(one for one in queue if one.number not in taken)
        else:
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


def _in_turns(queue: Iterable[QueuedRow], limit: int, order: Sequence[Hashable]) -> list[QueuedRow]:
    rows: dict[Hashable, deque[QueuedRow]] = {group: deque() for group in order}
    for queued in queue:
        rows[min(queued.groups, key=order.index)].append(queued)
    first, *others = rows.values()
    batch = [*first][:limit]
    while len(batch) < limit and any(others):
        batch += [one.popleft() for one in others if one][: limit - len(batch)]
    return batch
