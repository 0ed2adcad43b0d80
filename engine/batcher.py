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
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from engine.backends import Networks
from engine.buffers import Buffers
from engine.errors import Cancelled
from engine.rows import Flow, Row

T = TypeVar("T")
Kind = tuple[str, tuple[int, ...]]


class FlowHandle(Generic[T]):
    """One flow: its future, its progress, and the answers it waits for.

    Attributes:
        future: resolves to the flow's result, or to its error.
        rows, calls: per network, what was answered so far; a call shared with others counts here.
    """

    def __init__(self, flow: Flow[T], on_progress: Callable[[FlowHandle[T]], None] | None) -> None:
        self.future: Future[T] = Future()
        self.future.set_running_or_notify_cancel()  # `cancel` is the only way: it frees the rows
        self.rows: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.on_progress = on_progress
        self.flow = flow
        self.answers: list[Tensor | None] | None = None
        self.missing = 0
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Ask for the end: no further row of this job is run, and its future fails with Cancelled.
        A call under way is not interrupted. Safe from any thread; a finished job stays finished."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    @property
    def over(self) -> bool:
        return self.future.done()


class _Ticket:
    """A row in the queue, and its owners: whose answer it is and which place it takes there."""

    __slots__ = ("number", "owners", "row")

    def __init__(self, number: int, row: Row) -> None:
        self.number, self.row = number, row
        self.owners: list[tuple[FlowHandle[Any], int]] = []

    @property
    def jobs(self) -> list[FlowHandle[Any]]:
        return [job for job, _ in self.owners if not job.over]


class Batcher:
    """Continuous batching at the level of single network evaluations.

    Rows of one kind (network and shape) share calls, first come first served, whatever requests and
    steps they belong to; equal rows, by their keys, that wait at the same time share one place. A
    call that fails is halved until the rows that fail stand alone: only their requests fail, and a
    batch too large for the memory is run in parts.
    """

    def __init__(self, networks: Networks) -> None:
        self.networks = networks
        self.calls: Counter[str] = Counter()
        self.rows: Counter[str] = Counter()
        self._buffers: dict[Kind, Buffers] = {}
        self._queues: dict[Kind, deque[_Ticket]] = {}
        self._keyed: dict[tuple[Kind, Hashable], _Ticket] = {}
        self._jobs: set[FlowHandle[Any]] = set()
        self._arrived: deque[FlowHandle[Any]] = deque()
        self._number = 0
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._step_began: float | None = None

    # -- the door -------------------------------------------------------------------------------

    def submit(
        self,
        flow: Flow[T],
        *,
        on_progress: Callable[[FlowHandle[T]], None] | None = None,
    ) -> FlowHandle[T]:
        """Queue a flow. `on_progress` is called on the engine's thread after each answered call."""
        job = FlowHandle(flow, on_progress)
        with self._wake:
            if self._stopping:
                raise RuntimeError("this Batcher is closed")
            self._arrived.append(job)
            self._wake.notify()
        return job

    def start(self) -> None:
        """Run `step` on a thread of its own from now on; once is enough, more does no harm."""
        with self._wake:
            if self._thread is None and not self._stopping:
                self._thread = threading.Thread(target=self._serve, name="engine", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Cancel what is under way, end the thread and release the networks."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join()
        for job in [*self._jobs, *self._arrived]:
            self._end(job, Cancelled("The pipeline was closed while the request was under way."))
        self._arrived.clear()
        self._queues.clear()
        self._keyed.clear()
        self._buffers.clear()
        self.networks.close()

    @property
    def waiting_rows(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    def padded_rows(self, net: str) -> int:
        """Places of one network's calls that were filled with padding, since the beginning."""
        return sum(b.padded_rows for kind, b in [*self._buffers.items()] if kind[0] == net)

    @property
    def busy_seconds(self) -> float:
        """How long the step under way has taken so far; 0 between steps. For a watchdog."""
        began = self._step_began
        return 0.0 if began is None else time.monotonic() - began

    @property
    def alive(self) -> bool:
        """Whether flows that are submitted now will be run by the engine's thread."""
        return self._thread is not None and self._thread.is_alive() and not self._stopping

    # -- the loop -------------------------------------------------------------------------------

    def step(self) -> bool:
        """Admit, then pick, run, scatter, advance: one engine call. False when nothing waits."""
        with torch.inference_mode():
            self._admit()
            tickets = self._pick()
            if not tickets:
                return bool(self._arrived)
            for answered, outputs in self._run(tickets):
                self._scatter(answered, outputs)
            for job in dict.fromkeys(job for ticket in tickets for job in ticket.jobs):
                if not job.over:
                    if job.on_progress is not None:
                        self._guard(job, job.on_progress)
                    if job.missing == 0:
                        self._advance(job)
        return True

    def _admit(self) -> None:
        """Begin the flows that arrived; drop every row of those that were cancelled."""
        for job in [job for job in self._jobs if job.cancelled]:
            self._end(job, Cancelled("The request was cancelled."))
        while self._arrived:
            job = self._arrived.popleft()
            self._jobs.add(job)
            if job.cancelled:
                self._end(job, Cancelled("The request was cancelled before it began."))
            else:
                self._advance(job)

    def _pick(self) -> list[_Ticket]:
        """The oldest row chooses the kind; rows of that kind go along up to the largest profile."""
        waiting = {kind: queue for kind, queue in self._queues.items() if queue}
        if not waiting:
            return []
        kind = min(waiting, key=lambda k: waiting[k][0].number)
        queue = waiting[kind]
        try:
            limit = self._buffers_of(kind).backend.spec.max_batch
        except Exception as error:  # no such network: every row that asks for it fails
            for job in {job for ticket in queue for job in ticket.jobs}:
                self._end(job, error)
            return self._pick()
        tickets = [queue.popleft() for _ in range(min(limit, len(queue)))]
        for ticket in tickets:
            self._keyed.pop((kind, ticket.row.key), None)
        return tickets

    def _run(self, tickets: Sequence[_Ticket]) -> Iterator[tuple[Sequence[_Ticket], list[Tensor]]]:
        """One call for all, or where it fails, halves: a row that fails alone ends its own job."""
        live = [ticket for ticket in tickets if ticket.jobs]
        if not live:
            return
        try:
            outputs = self._buffers_of(live[0].row.kind).run([ticket.row for ticket in live])
        except Exception as error:
            if len(live) == 1:
                for job in live[0].jobs:
                    self._end(job, error)
                return
            outputs = None  # leave the handler first: its traceback holds the call's memory
        if outputs is None:
            middle = len(live) // 2
            yield from self._run(live[:middle])
            yield from self._run(live[middle:])
            return
        name = live[0].row.net
        self.calls[name] += 1
        self.rows[name] += len(live)
        for job in {job for ticket in live for job in ticket.jobs}:
            job.calls[name] += 1
        yield live, outputs

    def _scatter(self, tickets: Sequence[_Ticket], outputs: Sequence[Tensor]) -> None:
        for ticket, output in zip(tickets, outputs, strict=True):
            for job, slot in ticket.owners:
                if job.answers is not None:
                    job.answers[slot] = output
                    job.missing -= 1
                    job.rows[ticket.row.net] += 1

    def _advance(self, job: FlowHandle[Any]) -> None:
        """Send a flow its answers and queue the rows it asks for next. An empty list asks for
        nothing and is answered at once."""
        answers: Any = job.answers
        try:
            while not (rows := job.flow.send(answers)):
                answers = []
        except StopIteration as done:
            self._end(job, None, done.value)
        except Exception as error:
            self._end(job, error)
        else:
            job.answers, job.missing = [None] * len(rows), len(rows)
            for slot, row in enumerate(rows):
                self._ticket_for(row).owners.append((job, slot))

    def _ticket_for(self, row: Row) -> _Ticket:
        """The waiting ticket of the same row, or a new one at the end of its queue."""
        kind = row.kind
        ticket = None if row.key is None else self._keyed.get((kind, row.key))
        if ticket is None:
            self._number += 1
            ticket = _Ticket(self._number, row)
            self._queues.setdefault(kind, deque()).append(ticket)
            if row.key is not None:
                self._keyed[kind, row.key] = ticket
        return ticket

    def _end(self, job: FlowHandle[Any], error: BaseException | None, value: Any = None) -> None:
        """Settle a job once: its rows leave the queues, its flow is closed, its future resolves."""
        self._jobs.discard(job)
        if job.over:
            return
        if job.missing:
            self._leave(job)
        job.answers, job.missing = None, 0
        try:
            job.flow.close()
        except Exception as closing:
            error = error or closing
        if error is None:
            job.future.set_result(value)
        else:  # its frames hold the request's tensors, and whoever keeps the error keeps them
            traceback.clear_frames(error.__traceback__)
            job.future.set_exception(error)

    def _leave(self, job: FlowHandle[Any]) -> None:
        """Take a job's name off every waiting ticket; those that are nobody's then are dropped."""
        for kind, queue in self._queues.items():
            for ticket in queue:
                ticket.owners = [owner for owner in ticket.owners if owner[0] is not job]
                if not ticket.owners:
                    self._keyed.pop((kind, ticket.row.key), None)
            self._queues[kind] = deque(ticket for ticket in queue if ticket.owners)

    def _guard(self, job: FlowHandle[Any], callback: Callable[[FlowHandle[Any]], None]) -> None:
        """A progress callback that raises ends its own job, nobody else's."""
        try:
            callback(job)
        except Exception as error:
            self._end(job, error)

    def _buffers_of(self, kind: Kind) -> Buffers:
        if kind not in self._buffers:
            self._buffers[kind] = Buffers(self.networks.find(*kind))
        return self._buffers[kind]

    def _serve(self) -> None:
        while True:
            with self._wake:
                while not (self._stopping or self._arrived or self._jobs):
                    self._wake.wait()
                if self._stopping:
                    return
            self._step_began = time.monotonic()
            self.step()
            self._step_began = None
