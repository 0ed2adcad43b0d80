"""`FlowHandle`: a submitted flow, as its submitter and the batcher see it."""

from __future__ import annotations

import logging
import traceback
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any, Generic, TypeVar

from engine.buffers import Answer
from engine.engine_thread import EngineFuture, EngineThread
from engine.rows import Flow

log = logging.getLogger(__name__)
T = TypeVar("T")
E = TypeVar("E", bound=BaseException)


class FlowHandle(Generic[T]):
    """A submitted flow: its future and its progress.

    Attributes:
        future: resolves to the flow's result, or raises its error.
        rows, calls: network -> rows and calls that the device has finished. A call shared with
            other flows counts in each.
        cancelled: whether `cancel` was called.
    """

    def __init__(
        self,
        flow: Flow[T],
        on_progress: Callable[[FlowHandle[T]], None] | None,
        thread: EngineThread,
    ) -> None:
        self.future: EngineFuture[T] = EngineFuture(thread)
        self.rows: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.cancelled = False
        self.on_progress = on_progress
        self.flow = flow
        self.answers: list[Answer | None] | None = None
        self.missing = 0

    def cancel(self) -> None:
        """Request cancellation: no further row of this flow runs, and its future raises Cancelled.

        Calls in flight are not interrupted. Safe from any thread; a finished flow is not changed.
        """
        self.cancelled = True

    @property
    def done(self) -> bool:
        """Whether the future has a result or an error."""
        return self.future.done()

    def finish(self, error: BaseException | None, result: T | None = None) -> None:
        """Close the generator and resolve the future. The batcher calls this once."""
        try:
            self.flow.close()
        except BaseException as closing:
            error = error or closing
        self.answers, self.missing, self.on_progress = None, 0, None
        try:
            if error is None:
                self.future.set_result(result)  # type: ignore[arg-type]
            else:
                self.future.set_exception(without_frames(error))
        except BaseException:  # the future is resolved; a callback that was added to it raised
            log.exception("a callback of a future raised")


Handle = FlowHandle[Any]


def without_frames(error: E) -> E:
    """The error, without the local variables of the frames it passed through.

    They would keep tensors, or the whole engine, for as long as anybody keeps the error. Frames
    that still run cannot be cleared, so the traceback begins below them.
    """
    seen: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in seen:
        seen.append(link)
        trace = link.__traceback__
        while trace is not None and not _cleared(trace.tb_frame):
            trace = trace.tb_next
        traceback.clear_frames(trace)
        link.__traceback__ = trace
        link = link.__cause__ or link.__context__
    return error


def _cleared(frame: FrameType) -> bool:
    """Clear a frame's local variables. Returns False if it still runs."""
    try:
        frame.clear()
    except RuntimeError:
        return False
    return True
