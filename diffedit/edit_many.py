"""Run many edits concurrently and return the results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from diffedit.handle import EditHandle
from diffedit.request import EditRequest
from diffedit.result import EditResult
from engine.flow_handle import without_frames


def edit_many(
    submit: Callable[[EditRequest], EditHandle],
    requests: Iterable[EditRequest],
    *,
    in_flight: int,
    return_errors: bool,
) -> Iterator[EditResult | Exception]:
    """See `DiffEditPipeline.edit_many`. Closing the iterator cancels the edits that still run."""
    running: deque[EditHandle | Exception] = deque()
    remaining = _submitted(submit, requests, return_errors=return_errors)
    failure: Exception | None = None
    try:
        while True:
            try:
                running.extend(islice(remaining, in_flight - len(running)))
            except Exception as error:  # of the caller's iterable, or of a request
                failure = _without_first_frame(error)
            if running:
                first = running.popleft()
                yield first if isinstance(first, Exception) else _result(first, return_errors)
            elif failure is not None:
                raise failure
            else:
                return
    finally:
        for handle in running:
            if isinstance(handle, EditHandle):
                handle.cancel()


def _submitted(
    submit: Callable[[EditRequest], EditHandle],
    requests: Iterable[EditRequest],
    *,
    return_errors: bool,
) -> Iterator[EditHandle | Exception]:
    """Submit each request; a generator, so that nothing is submitted after an exception."""
    for request in requests:
        try:
            handle: EditHandle | Exception = submit(request)
        except Exception as error:
            if not return_errors:
                raise
            handle = without_frames(error)
        yield handle


def _without_first_frame(error: Exception) -> Exception:
    """Without this module's own frame, which would keep a dropped iterator and its edits alive."""
    frames = error.__traceback__
    return error.with_traceback(frames.tb_next if frames is not None else None)


def _result(handle: EditHandle, return_errors: bool) -> EditResult | Exception:
    try:
        return handle.result()
    except Exception as error:
        if not return_errors:
            raise
        return without_frames(error)
