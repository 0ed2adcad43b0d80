"""`FlowHandle`: a submitted flow, as its submitter and the batcher see it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from engine.buffers import Answer
from engine.rows import Flow

T = TypeVar("T")


class FlowHandle(Generic[T]):
    """A submitted flow: its future and its progress.

    Attributes:
        future: resolves to the flow's result, or raises its error.
        rows, calls: network -> rows and calls answered so far. A call shared with other flows
            counts in each.
    """

    def __init__(self, flow: Flow[T], on_progress: Callable[[FlowHandle[T]], None] | None) -> None:
        self.future: Future[T] = Future()
        self.future.set_running_or_notify_cancel()  # `cancel` is the only way: it frees the rows
        self.rows: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.on_progress = on_progress
        self.flow = flow
        self.answers: list[Answer | None] | None = None
        self.missing = 0
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Request cancellation: no further row of this flow runs, and its future raises Cancelled.

        A running call is not interrupted. Safe from any thread; a finished flow is not changed.
        """
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    @property
    def done(self) -> bool:
        """Whether the future has a result or an error."""
        return self.future.done()
