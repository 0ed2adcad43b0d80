"""Run many edits concurrently and return the results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import TypeVar

from diffedit.handle import EditHandle
from diffedit.request import EditRequest
from diffedit.result import EditResult
from engine.flow_handle import without_frames

T = TypeVar("T")


def edit_many(
    submit: Callable[[EditRequest], EditHandle],
    requests: Iterable[EditRequest],
    *,
    in_flight: int,
    return_errors: bool,
) -> Iterator[EditResult | Exception]:
    """See `DiffEditPipeline.edit_many`. Closing the iterator cancels the edits that still run."""

    def attempt(call: Callable[[], T]) -> T | Exception:
        try:
            return call()
        except Exception as error:
            if not return_errors:
                raise
            return without_frames(error)

    running: deque[EditHandle | Exception] = deque()
    remaining = iter(requests)
    try:
        while True:
            for request in islice(remaining, in_flight - len(running)):
                running.append(attempt(partial(submit, request)))
            if not running:
                return
            first = running.popleft()
            yield first if isinstance(first, Exception) else attempt(first.result)
    finally:
        for handle in running:
            if isinstance(handle, EditHandle):
                handle.cancel()
