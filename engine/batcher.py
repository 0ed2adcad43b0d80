"""The runtime's only loop: run waiting rows of one network together.

`Batcher.submit` may be called from any thread and returns a `FlowHandle`. `step` runs on one
thread, which owns every flow, every backend and the device. The batcher does not know what a flow
computes.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, TypeVar

import torch

from engine.backends import Backend, Networks
from engine.buffers import Answer, Buffers
from engine.errors import Cancelled
from engine.flow_handle import FlowHandle
from engine.rows import Flow, Row

T = TypeVar("T")
Kind = tuple[str, tuple[int, ...]]


class _QueuedRow:
    """A row in a queue, with the flows that wait for it and the index of its answer in each."""

    __slots__ = ("number", "row", "waiters")

    def __init__(self, number: int, row: Row) -> None:
        self.number, self.row = number, row
        self.waiters: list[tuple[FlowHandle[Any], int]] = []

    @property
    def flows(self) -> list[FlowHandle[Any]]:
        return [flow for flow, _ in self.waiters if not flow.done]


class Batcher:
    """Continuous batching of single network evaluations.

    Rows of one kind (network and shape) share calls, first come first served, across requests and
    steps. Waiting rows with equal keys are deduplicated. If a call fails, it is split in halves
    until the failing rows are alone: only their requests fail, and a batch that does not fit into
    memory runs in parts.
    """

    def __init__(self, networks: Networks) -> None:
        self.networks = networks
        self.calls: Counter[str] = Counter()
        self.rows: Counter[str] = Counter()
        self._buffers: dict[Kind, Buffers] = {}
        self._queues: dict[Kind, deque[_QueuedRow]] = {}
        self._by_key: dict[tuple[Kind, Hashable], _QueuedRow] = {}
        self._running: set[FlowHandle[Any]] = set()
        self._submitted: deque[FlowHandle[Any]] = deque()
        self._row_number = 0
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._step_began: float | None = None

    # -- any thread -----------------------------------------------------------------------------

    def submit(
        self,
        flow: Flow[T],
        *,
        on_progress: Callable[[FlowHandle[T]], None] | None = None,
    ) -> FlowHandle[T]:
        """Queue a flow. `on_progress` is called on the engine thread after each answered call."""
        handle = FlowHandle(flow, on_progress)
        with self._wake:
            if self._stopping:
                raise RuntimeError("this Batcher is closed")
            self._submitted.append(handle)
            self._wake.notify()
        return handle

    def start(self) -> None:
        """Start the engine thread, which calls `step` while there is work. Idempotent."""
        with self._wake:
            if self._thread is None and not self._stopping:
                self._thread = threading.Thread(target=self._serve, name="engine", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Cancel all flows, end the engine thread and release the networks."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join()
        for flow in [*self._running, *self._submitted]:
            self._finish(flow, Cancelled("The pipeline was closed while the request was running."))
        self._submitted.clear()
        self._queues.clear()
        self._by_key.clear()
        self._buffers.clear()
        self.networks.close()

    @property
    def waiting_rows(self) -> int:
        """Rows in all queues."""
        return sum(len(queue) for queue in self._queues.values())

    def padded_rows(self, net: str) -> int:
        """Padding rows that one network has run since the start."""
        return sum(b.padded_rows for kind, b in [*self._buffers.items()] if kind[0] == net)

    @property
    def busy_seconds(self) -> float:
        """How long the current step has taken so far; 0 between steps. For a watchdog."""
        began = self._step_began
        return 0.0 if began is None else time.monotonic() - began

    @property
    def alive(self) -> bool:
        """Whether the engine thread will run flows that are submitted now."""
        return self._thread is not None and self._thread.is_alive() and not self._stopping

    # -- the engine thread ----------------------------------------------------------------------

    def backend(self, kind: Kind) -> Backend:
        """The backend for rows of a kind, loaded if it was not. Raises EngineMismatch."""
        return self._buffers_of(kind).backend

    def run_call(self, rows: Sequence[Row]) -> list[Answer]:
        """Run rows of one kind in one call, past the queues; its error is raised. For a flow that
        measures calls."""
        return self._buffers_of(rows[0].kind).run(rows)

    def step(self) -> bool:
        """Start new flows, run one network call, and advance the flows it answers.

        Returns False if no row waits.
        """
        with torch.inference_mode():
            self._start_submitted()
            batch = self._pick()
            if not batch:
                return bool(self._submitted)
            for answered, answers in self._run(batch):
                self._deliver(answered, answers)
            for flow in dict.fromkeys(flow for queued in batch for flow in queued.flows):
                if not flow.done:
                    if flow.on_progress is not None:
                        self._report(flow, flow.on_progress)
                    if flow.missing == 0:
                        self._advance(flow)
        return True

    def _start_submitted(self) -> None:
        """Drop the rows of cancelled flows, and start the flows that were submitted."""
        for flow in [flow for flow in self._running if flow.cancelled]:
            self._finish(flow, Cancelled("The request was cancelled."))
        while self._submitted:
            flow = self._submitted.popleft()
            self._running.add(flow)
            if flow.cancelled:
                self._finish(flow, Cancelled("The request was cancelled before it began."))
            else:
                self._advance(flow)

    def _pick(self) -> list[_QueuedRow]:
        """Take the oldest row, and further rows of its kind up to the largest profile."""
        waiting = {kind: queue for kind, queue in self._queues.items() if queue}
        if not waiting:
            return []
        kind = min(waiting, key=lambda k: waiting[k][0].number)
        queue = waiting[kind]
        try:
            limit = self._buffers_of(kind).backend.spec.max_batch
        except Exception as error:  # there is no such network: every flow that needs it fails
            for flow in {flow for queued in queue for flow in queued.flows}:
                self._finish(flow, error)
            return self._pick()
        batch = [queue.popleft() for _ in range(min(limit, len(queue)))]
        for queued in batch:
            self._by_key.pop((kind, queued.row.key), None)
        return batch

    def _run(
        self, batch: Sequence[_QueuedRow]
    ) -> Iterator[tuple[Sequence[_QueuedRow], list[Answer]]]:
        """One call for all rows. If it fails, one call for each half; a row that fails alone ends
        its flows."""
        live = [queued for queued in batch if queued.flows]
        if not live:
            return
        try:
            answers = self._buffers_of(live[0].row.kind).run([queued.row for queued in live])
        except Exception as error:
            if len(live) == 1:
                for flow in live[0].flows:
                    self._finish(flow, error)
                return
            answers = None  # leave the handler first: its traceback holds the call's memory
        if answers is None:
            middle = len(live) // 2
            yield from self._run(live[:middle])
            yield from self._run(live[middle:])
            return
        name = live[0].row.net
        self.calls[name] += 1
        self.rows[name] += len(live)
        for flow in {flow for queued in live for flow in queued.flows}:
            flow.calls[name] += 1
        yield live, answers

    def _deliver(self, batch: Sequence[_QueuedRow], answers: Sequence[Answer]) -> None:
        for queued, answer in zip(batch, answers, strict=True):
            for flow, index in queued.waiters:
                if flow.answers is not None:
                    flow.answers[index] = answer
                    flow.missing -= 1
                    flow.rows[queued.row.net] += 1

    def _advance(self, flow: FlowHandle[Any]) -> None:
        """Send a flow its answers and queue the rows that it yields. An empty list is answered with
        an empty list at once."""
        answers: Any = flow.answers
        try:
            while not (rows := flow.flow.send(answers)):
                answers = []
        except StopIteration as stop:
            self._finish(flow, None, stop.value)
        except Exception as error:
            self._finish(flow, error)
        else:
            flow.answers, flow.missing = [None] * len(rows), len(rows)
            for index, row in enumerate(rows):
                self._enqueue(row).waiters.append((flow, index))

    def _enqueue(self, row: Row) -> _QueuedRow:
        """The waiting entry with the same key, or a new one at the end of its queue."""
        kind = row.kind
        queued = None if row.key is None else self._by_key.get((kind, row.key))
        if queued is None:
            self._row_number += 1
            queued = _QueuedRow(self._row_number, row)
            self._queues.setdefault(kind, deque()).append(queued)
            if row.key is not None:
                self._by_key[kind, row.key] = queued
        return queued

    def _finish(
        self, flow: FlowHandle[Any], error: BaseException | None, result: Any = None
    ) -> None:
        """End a flow once: remove its rows, close its generator, resolve its future."""
        self._running.discard(flow)
        if flow.done:
            return
        if flow.missing:
            self._dequeue(flow)
        flow.answers, flow.missing = None, 0
        try:
            flow.flow.close()
        except Exception as closing:
            error = error or closing
        if error is None:
            flow.future.set_result(result)
        else:  # the frames hold the request's tensors as long as anybody keeps the error
            traceback.clear_frames(error.__traceback__)
            flow.future.set_exception(error)

    def _dequeue(self, flow: FlowHandle[Any]) -> None:
        """Remove a flow from every queued row, and rows that no flow waits for any more."""
        for kind, queue in self._queues.items():
            for queued in queue:
                queued.waiters = [waiter for waiter in queued.waiters if waiter[0] is not flow]
                if not queued.waiters:
                    self._by_key.pop((kind, queued.row.key), None)
            self._queues[kind] = deque(queued for queued in queue if queued.waiters)

    def _report(self, flow: FlowHandle[Any], callback: Callable[[FlowHandle[Any]], None]) -> None:
        """Call a progress callback. If it raises, only its own flow fails."""
        try:
            callback(flow)
        except Exception as error:
            self._finish(flow, error)

    def _buffers_of(self, kind: Kind) -> Buffers:
        if kind not in self._buffers:
            self._buffers[kind] = Buffers(self.networks.find(*kind))
        return self._buffers[kind]

    def _serve(self) -> None:
        while True:
            with self._wake:
                while not (self._stopping or self._submitted or self._running):
                    self._wake.wait()
                if self._stopping:
                    return
            self._step_began = time.monotonic()
            self.step()
            self._step_began = None
