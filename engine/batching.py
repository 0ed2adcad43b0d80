"""The runtime's only loop: take waiting rows of one network, whoever they belong to, and run them.

A `Job` is a flow under way. `Batcher.submit` may be called from any thread; `step` belongs to one
thread, which owns every flow, every backend and the device. Nothing here knows what a flow is for.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from engine.backends import Networks
from engine.buffers import Buffers
from engine.rows import Flow, Row
from engine.spec import Cancelled

T = TypeVar("T")
Kind = tuple[str, tuple[int, ...]]


class Job(Generic[T]):
    """One flow: its future, its progress, and the answers it waits for.

    Attributes:
        future: resolves to the flow's result, or to its error.
        rows, calls: per network, what was answered so far; a call shared with others counts here.
    """

    def __init__(self, flow: Flow[T], on_progress: Callable[[Job[T]], None] | None) -> None:
        self.future: Future[T] = Future()
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
    """A row in the queue: whose it is and where its answer belongs."""

    __slots__ = ("job", "number", "row", "slot")

    def __init__(self, number: int, job: Job[Any], slot: int, row: Row) -> None:
        self.number, self.job, self.slot, self.row = number, job, slot, row


class Batcher:
    """Continuous batching at the level of single network evaluations.

    Rows of one kind (network and shape) share calls, first come first served, whatever requests and
    steps they belong to. A call that fails is halved until the rows that fail stand alone: only
    their requests fail, and a batch too large for the memory is run in parts.
    """

    def __init__(self, networks: Networks) -> None:
        self.networks = networks
        self.calls: Counter[str] = Counter()
        self._buffers: dict[Kind, Buffers] = {}
        self._queues: dict[Kind, deque[_Ticket]] = {}
        self._jobs: set[Job[Any]] = set()
        self._arrived: deque[Job[Any]] = deque()
        self._number = 0
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopping = False

    # -- the door -------------------------------------------------------------------------------

    def submit(
        self,
        flow: Flow[T],
        *,
        on_progress: Callable[[Job[T]], None] | None = None,
    ) -> Job[T]:
        """Queue a flow. `on_progress` is called on the engine's thread after each answered call."""
        job = Job(flow, on_progress)
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
        self._buffers.clear()
        self.networks.close()

    @property
    def waiting_rows(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

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
            for job in dict.fromkeys(ticket.job for ticket in tickets):
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
            for job in {ticket.job for ticket in queue}:
                self._end(job, error)
            return self._pick()
        return [queue.popleft() for _ in range(min(limit, len(queue)))]

    def _run(self, tickets: Sequence[_Ticket]) -> Iterator[tuple[Sequence[_Ticket], list[Tensor]]]:
        """One call for all, or where it fails, halves: a row that fails alone ends its own job."""
        live = [ticket for ticket in tickets if not ticket.job.over]
        if not live:
            return
        try:
            outputs = self._buffers_of(live[0].row.kind).run([ticket.row for ticket in live])
        except Exception as error:
            if len(live) == 1:
                self._end(live[0].job, error)
                return
            outputs = None  # leave the handler first: its traceback holds the call's memory
        if outputs is None:
            middle = len(live) // 2
            yield from self._run(live[:middle])
            yield from self._run(live[middle:])
            return
        name = live[0].row.net
        self.calls[name] += 1
        for job in {ticket.job for ticket in live}:
            job.calls[name] += 1
        yield live, outputs

    def _scatter(self, tickets: Sequence[_Ticket], outputs: Sequence[Tensor]) -> None:
        for ticket, output in zip(tickets, outputs, strict=True):
            job = ticket.job
            if job.answers is not None:
                job.answers[ticket.slot] = output
                job.missing -= 1
                job.rows[ticket.row.net] += 1

    def _advance(self, job: Job[Any]) -> None:
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
                self._number += 1
                queue = self._queues.setdefault(row.kind, deque())
                queue.append(_Ticket(self._number, job, slot, row))

    def _end(self, job: Job[Any], error: BaseException | None, value: Any = None) -> None:
        """Settle a job once: its rows leave the queues, its flow is closed, its future resolves."""
        self._jobs.discard(job)
        if job.over:
            return
        if job.missing:
            for kind, queue in self._queues.items():
                self._queues[kind] = deque(t for t in queue if t.job is not job)
        job.answers, job.missing = None, 0
        try:
            job.flow.close()
        except Exception as closing:
            error = error or closing
        if error is None:
            job.future.set_result(value)
        else:
            job.future.set_exception(error)

    def _guard(self, job: Job[Any], callback: Callable[[Job[Any]], None]) -> None:
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
            self.step()
