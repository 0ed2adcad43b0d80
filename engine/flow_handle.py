"""`FlowHandle`: a submitted flow, its future and its progress."""

from __future__ import annotations

import logging
import traceback
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

from engine.engine_thread import EngineFuture, EngineThread
from engine.errors import DiffEditError
from engine.rows import Answer, Flow

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
        group: the flows that it shares its part of the device's time with, see `engine.turns`.
    """

    def __init__(
        self,
        flow: Flow[T],
        on_progress: Callable[[FlowHandle[T]], None] | None,
        thread: EngineThread,
        group: Hashable = None,
    ) -> None:
        self.future: EngineFuture[T] = EngineFuture(thread)
        self.rows: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.cancelled = False
        self.group = group
        self.on_progress = on_progress
        self.flow = flow
        self.answers: list[Answer | None] | None = None
        self.missing = 0
        self.ended = False  # the same as `done`, without a lock, for the engine thread

    def cancel(self) -> None:
        """Request cancellation: no more rows of this flow run, and its future raises Cancelled.

        Calls in flight are not interrupted. Thread-safe. A finished flow is not changed.
        """
        self.cancelled = True

    @property
    def done(self) -> bool:
        """Whether the future has a result or an error."""
        return self.future.done()

    def finish(self, error: BaseException | None, result: T | None = None) -> None:
        """Close the generator and resolve the future. The batcher calls this once."""
        self.ended = True
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
    """Return the error without its tracebacks and those of its causes.

    Tracebacks have references to local variables, so an error that is stored would keep tensors and
    the whole engine alive. The stack trace of an unexpected error is added as a note.
    """
    if error.__traceback__ is not None and not isinstance(error, DiffEditError):
        error.add_note("".join(traceback.format_exception(error)).rstrip())
    links: list[BaseException | None] = [error]
    for link in links:  # grows
        if link is not None and link.__traceback__ is not None:
            link.__traceback__ = None
            links += [link.__cause__, link.__context__]
    return error
