"""The runtime's only loop: run waiting rows of one network together.

`Batcher.submit` may be called from any thread and returns a `FlowHandle`. `step` runs on one
thread, which owns every flow, every backend and the device. On a GPU it launches calls before
earlier ones are finished, at most two at a time; counts, progress and results are reported when the
device has finished.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any, TypeVar

import torch

from engine.backends import Networks
from engine.engine_thread import EngineThread
from engine.errors import Cancelled, EngineUnavailable
from engine.flow_handle import FlowHandle, Handle
from engine.in_flight import InFlight
from engine.network_calls import NetworkCalls
from engine.row_queues import ANY, QueuedRow, RowQueues
from engine.rows import Answer, Flow
from engine.turns import Turns

log = logging.getLogger(__name__)
T = TypeVar("T")


class Batcher:
    """Continuous batching of single network evaluations.

    Rows of one kind (network and shape) share calls across requests and steps, first come first
    served within a group of flows; groups take turns. Waiting rows with equal keys are
    deduplicated. If a call fails, it is split in halves until the failing rows are found: only
    their requests fail, and a batch that does not fit into memory runs in parts.

    Attributes:
        networks: runs the calls.
        network_calls: runs and counts the calls.
        calls, rows: network -> calls and rows since the start, without padding.
    """

    def __init__(self, networks: Networks) -> None:
        self.networks = networks
        self.network_calls = NetworkCalls(networks)
        self.calls, self.rows = self.network_calls.calls, self.network_calls.rows
        self._queues = RowQueues()
        self._running: set[Handle] = set()
        self._submitted: deque[Handle] = deque()
        self._returned: list[tuple[Handle, Any]] = []
        self._in_flight = InFlight(networks.queue)
        self._turns = Turns()
        self._thread = EngineThread()
        self._close_lock = threading.RLock()
        self._closed = False
        self._step_began: float | None = None

    # -- any thread -----------------------------------------------------------------------------

    def submit(
        self,
        flow: Flow[T],
        *,
        on_progress: Callable[[FlowHandle[T]], None] | None = None,
        group: Hashable = None,
    ) -> FlowHandle[T]:
        """Queue a flow. `on_progress` is called on the engine thread after each finished call.

        Groups share the device's time equally, see `engine.turns`.

        An exception of the flow or of `on_progress` ends only this flow. Raises EngineUnavailable
        if the batcher is closed, its thread has failed, or the process was forked.
        """
        self._thread.check()
        handle = FlowHandle(flow, on_progress, self._thread, group)
        self._submitted.append(handle)
        self._thread.put(self._serve)
        if self._thread.stopped is not None:  # meanwhile: the thread may have missed the flow
            self._fail_submitted(partial(EngineUnavailable, self._thread.stopped))
        return handle

    def start(self) -> None:
        """Start the engine thread, which calls `step` while there is work. Idempotent."""
        self._thread.start(self, self._serve)

    def check(self) -> None:
        """Raise EngineUnavailable if `submit` would."""
        self._thread.check()

    def close(self) -> None:
        """Cancel all flows, end the engine thread and release the networks. Idempotent.

        Waits for the running call. In a forked child it does nothing: the networks belong to the
        parent. Raises EngineUnavailable on the engine thread, which cannot wait for itself.
        """
        if self._thread.forked:
            return
        self._thread.check_wait()
        self._thread.stop()
        self._thread.join()
        with self._close_lock:
            if not self._closed:
                self._closed = True
                why = "The pipeline was closed while the request was running."
                self._fail_all(partial(Cancelled, why))
                self.network_calls.close()

    def padded_rows(self, net: str) -> int:
        """Padding rows that one network has run since the start."""
        return self.network_calls.padded_rows(net)

    @property
    def busy_seconds(self) -> float:
        """Seconds since the current step began; 0 between steps. For a watchdog."""
        began = self._step_began
        return 0.0 if began is None else time.monotonic() - began

    @property
    def alive(self) -> bool:
        """Whether the engine thread will run flows that are submitted now."""
        return self._thread.alive

    # -- the engine thread ----------------------------------------------------------------------

    def step(self) -> bool:
        """Start new flows, launch one network call, and advance the flows that it answers.

        Waits first if the maximum number of calls is in flight. Returns False if there is no more
        work.
        """
        self._settle(wait=self._in_flight.full)
        with torch.inference_mode():
            self._start_submitted()
            batch = self._pick()
            if batch or self._returned:
                self._launch(batch)
        self._settle(wait=not batch)
        return bool(batch or self._in_flight or self._submitted)

    def _settle(self, *, wait: bool) -> None:
        """Count the finished calls, report progress, and resolve the flows that ended."""
        for launched in self._in_flight.finished(wait=wait):
            seconds = self.network_calls.report(launched.timed)
            self._turns.charge(launched.rows_by_group, seconds)
            for flow, rows in launched.rows.items():
                if flow.ended:
                    continue
                flow.rows[launched.net] += rows
                flow.calls[launched.net] += launched.calls[flow]
                if flow.on_progress is not None:
                    self._report(flow, flow.on_progress)
            for flow, result in launched.returned:
                self._finish(flow, None, result)

    def _start_submitted(self) -> None:
        """Drop the rows of cancelled flows, and start the flows that were submitted."""
        for flow in [flow for flow in self._running if flow.cancelled]:
            self._finish(flow, Cancelled("The request was cancelled."))
        while (new := self._next_submitted()) is not None:
            self._running.add(new)
            self._turns.enter(new.group)
            if new.cancelled:
                self._finish(new, Cancelled("The request was cancelled before it began."))
            else:
                self._advance(new)

    def _pick(self) -> list[QueuedRow]:
        """Take the oldest row of the group whose turn it is, and further rows of its kind."""
        while self._queues:
            order = self._turns.order(self._queues.groups()) if self._turns.several else []
            oldest = self._queues.oldest(order[0] if order else ANY)
            assert oldest is not None
            kind = oldest.row.kind
            try:
                limit = self.network_calls.backend(kind).spec.max_batch
            except Exception as error:  # there is no such network: its rows end their flows
                for queued in self._queues.take(kind, len(self._queues)):
                    for flow in queued.flows:
                        self._finish(flow, error)
            else:
                self._turns.take(order[0] if order else next(iter(oldest.groups)))
                if order:
                    own = self._queues.count(kind, order[0])
                    limit = self.network_calls.shared_size(kind, own, len(order))
                return self._queues.take(kind, limit, order)
        return []

    def _launch(self, batch: Sequence[QueuedRow]) -> None:
        """Run a batch, advance the flows that it answers, and record the event that ends both."""
        rows: dict[Handle, int] = {}
        calls: dict[Handle, int] = {}
        for answered, answers in self.network_calls.run(batch):
            flows = {flow for queued in answered for flow in queued.flows}
            if isinstance(answers, Exception):
                for flow in flows:
                    self._finish(flow, answers)
                continue
            self._deliver(answered, answers, rows)
            for flow in flows:
                calls[flow] = calls.get(flow, 0) + 1
        for flow in rows:
            if not flow.ended and flow.missing == 0:
                self._advance(flow)
        returned, self._returned = self._returned, []
        net = batch[0].row.net if batch else ""
        self._in_flight.record(net, rows, calls, returned, self.network_calls.launched())

    def _deliver(
        self, batch: Sequence[QueuedRow], answers: Sequence[Answer], rows: dict[Handle, int]
    ) -> None:
        """Pass each answer to the flows that wait for it, and count the rows of each flow."""
        for queued, answer in zip(batch, answers, strict=True):
            for flow, index in queued.waiters:
                if flow.answers is not None:
                    flow.answers[index] = answer
                    flow.missing -= 1
                    rows[flow] = rows.get(flow, 0) + 1

    def _advance(self, flow: Handle) -> None:
        """Send a flow its answers and queue the rows that it yields. An empty list is answered
        immediately. A flow that returns ends when the device has finished its work."""
        answers: Any = flow.answers
        try:
            while not (rows := flow.flow.send(answers)):
                answers = []
        except StopIteration as stop:
            self._returned.append((flow, stop.value))
        except BaseException as error:
            self._finish(flow, error)
        else:
            flow.answers, flow.missing = [None] * len(rows), len(rows)
            for index, row in enumerate(rows):
                self._queues.add(row, flow, index)

    def _finish(self, flow: Handle, error: BaseException | None, result: Any = None) -> None:
        """End a flow once: remove its rows, close its generator, resolve its future."""
        if flow in self._running:
            self._running.remove(flow)
            self._turns.leave(flow.group)
        if not flow.ended:
            if flow.missing:
                self._queues.remove(flow)
            flow.finish(error, result)

    def _fail_submitted(self, error: Callable[[], BaseException]) -> None:
        """Fail the flows that were not started. Any thread: each flow is taken by one of them."""
        while (flow := self._next_submitted()) is not None:
            flow.finish(error())

    def _next_submitted(self) -> Handle | None:
        try:
            return self._submitted.popleft()
        except IndexError:
            return None

    def _fail_all(self, error: Callable[[], BaseException]) -> None:
        """Fail every flow and drop every row."""
        self._queues.clear()
        self._in_flight.clear()
        self._returned.clear()
        self._turns = Turns()
        while self._running:
            flow = self._running.pop()
            if not flow.ended:
                flow.finish(error())
        self._fail_submitted(error)

    def _report(self, flow: Handle, callback: Callable[[Handle], None]) -> None:
        """Call a progress callback. If it raises, even SystemExit, only its own flow fails."""
        try:
            callback(flow)
        except BaseException as error:
            self._finish(flow, error)

    def _serve(self) -> None:
        """Run until no flow is left. If this raises any exception, every flow fails."""
        try:
            while self._thread.stopped is None and self._timed_step():
                pass
        except BaseException as error:
            log.critical("the engine thread failed", exc_info=True)
            reason = f"{type(error).__name__}: {error}".partition("\n")[0].rstrip(": ")
            self._thread.stop(f"The engine has failed ({reason}); open the pipeline again.")
            self._fail_all(partial(EngineUnavailable, self._thread.stopped))

    def _timed_step(self) -> bool:
        self._step_began = time.monotonic()
        try:
            return self.step()
        finally:
            self._step_began = None
