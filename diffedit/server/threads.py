"""Run work in other threads for the event loop, and release results that arrive too late.

A thread cannot be interrupted. If the coroutine that waits for it is cancelled, the thread
continues, and nobody would release its result, such as a loaded model or a submitted edit.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


async def wait_for(future: Future[T], dispose: Callable[[T], object]) -> T:
    """Wait for a result. If the waiting is cancelled, a later result is passed to `dispose`.

    Args:
        future: of a call in another thread. A call that has not begun is cancelled.
        dispose: releases a result. It runs in the thread of the call, or here.
    """
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        if not future.cancel():
            future.add_done_callback(lambda done: _dispose(done, dispose))
        raise


def _dispose(future: Future[T], dispose: Callable[[T], object]) -> None:
    if not future.cancelled() and future.exception() is None:
        dispose(future.result())


def start_daemon(call: Callable[[], T], name: str) -> Future[T]:
    """Run a call in a new thread, which does not keep the process alive."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()
    threading.Thread(target=complete, args=(future, call), name=name, daemon=True).start()
    return future


def complete(future: Future[T], call: Callable[[], T]) -> None:
    """Run a call here, and set the result or the error of a future that is marked as running."""
    try:
        result = call()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)


def retrieve_exception(future: asyncio.Future[T]) -> BaseException | None:
    """Return the exception of a finished future, or None. asyncio then does not report it."""
    return None if future.cancelled() or not future.done() else future.exception()
