"""Call networks with batches of rows; a batch whose call fails is run in parts.

Only the engine thread runs calls. `engine.batcher` starts, advances and ends flows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from engine.backends import Backend, Event, Networks
from engine.buffers import Buffers
from engine.call_times import CallTimes
from engine.row_queues import Kind, QueuedRow
from engine.rows import Answer, Row

Answered = tuple[Sequence[QueuedRow], list[Answer] | Exception]
"""Rows of one call with their answers, or a single row with the error of its call."""


class TimedCall(NamedTuple):
    """A call that was launched, and the events before and after it.

    Attributes:
        kind: network, and shape of its first input.
        batch_size: the profile that ran.
        began, ended: on the device.
    """

    kind: Kind
    batch_size: int
    began: Event
    ended: Event


class NetworkCalls:
    """The backends in use with their buffers, and counters of their calls.

    Attributes:
        calls, rows: network -> number of launched calls and rows, without padding.
        on_call: called on the engine thread when the device has finished a call, with the network,
            the shape of its first input, the batch size and the seconds on the device.
        times: seconds of the calls on the device.
    """

    def __init__(self, networks: Networks) -> None:
        self.calls: Counter[str] = Counter()
        self.rows: Counter[str] = Counter()
        self.on_call: Callable[[str, tuple[int, ...], int, float], None] | None = None
        self.times = CallTimes()
        self._networks = networks
        self._buffers: dict[Kind, Buffers] = {}
        self._timed: list[TimedCall] = []

    def backend(self, kind: Kind) -> Backend:
        """Return the backend for rows of a kind. Loads it at first use. Raises EngineMismatch."""
        return self._of(kind).backend

    def shared_size(self, kind: Kind, own: int, groups: int) -> int:
        """How many rows a call has at most if a group with `own` rows shares it with others.

        It takes at most as many times as long as a call of this group alone as there are groups:
        that is how much slower everything is when they share the device equally.
        """
        sizes = self.backend(kind).spec.batch_sizes
        return self.times.largest(kind, sizes, min(own, sizes[-1]), groups)

    def run_call(self, rows: Sequence[Row]) -> list[Answer]:
        """Run rows of one kind in one call. Raises the error of the call."""
        return self._of(rows[0].kind).run(rows)

    def run(self, batch: Sequence[QueuedRow]) -> Iterator[Answered]:
        """Run all rows that a flow waits for in one call. If the call fails, run each half, until
        the failing rows are found."""
        live = [queued for queued in batch if queued.flows]
        if not live:
            return
        answers: list[Answer] | Exception | None
        began = self._networks.queue.record()
        try:
            answers = self.run_call([queued.row for queued in live])
        except Exception as error:
            answers = error if len(live) == 1 else None
        if answers is None:  # outside the handler: its traceback holds the call's memory
            middle = len(live) // 2
            yield from self.run(live[:middle])
            yield from self.run(live[middle:])
            return
        if not isinstance(answers, Exception):
            self._count(live[0].row.kind, len(live), began)
        yield live, answers

    def launched(self) -> list[TimedCall]:
        """Return the calls since the last call of this method."""
        timed, self._timed = self._timed, []
        return timed

    def report(self, finished: Sequence[TimedCall]) -> float:
        """Count calls that the device has finished in `times`, and pass them to `on_call`.

        Returns their seconds.
        """
        total = 0.0
        for call in finished:
            seconds = call.began.elapsed_time(call.ended) / 1000
            total += seconds
            self.times.observe(call.kind, call.batch_size, seconds)
            if self.on_call is not None:
                self.on_call(*call.kind, call.batch_size, seconds)
        return total

    def padded_rows(self, net: str) -> int:
        """Padding rows that one network has run since the start. Any thread."""
        return sum(b.padded_rows for kind, b in [*self._buffers.items()] if kind[0] == net)

    def close(self) -> None:
        """Release the buffers and the networks."""
        self._buffers.clear()
        self._networks.close()

    def _count(self, kind: Kind, rows: int, began: Event) -> None:
        self.calls[kind[0]] += 1
        self.rows[kind[0]] += rows
        batch_size = self.backend(kind).spec.batch_for(rows)
        self._timed.append(TimedCall(kind, batch_size, began, self._networks.queue.record()))

    def _of(self, kind: Kind) -> Buffers:
        if kind not in self._buffers:
            self._buffers[kind] = Buffers(self._networks.find(*kind))
        return self._buffers[kind]
