"""The engine thread: it runs a batcher's work, and ends when the batcher is closed or collected.

It also detects where waiting for it would block forever: on the thread itself, in a forked process,
and after its end.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TypeVar

from engine.errors import EngineUnavailable

T = TypeVar("T")

EXIT_SECONDS = 5.0
"""Seconds that the interpreter waits at its exit for a running network call."""

CLOSED = "The pipeline is closed, so it runs no more edits; open it again."
FORKED = (
    "The pipeline was used before this process was forked, and its engine thread runs in the "
    "parent only; start processes with multiprocessing's 'spawn' method, or open the pipeline in "
    "the child."
)
ON_THREAD = (
    "This call waits for the engine thread and was made on it, by a callback of an edit, so it "
    "would never return; make it on another thread, or only submit the edit here."
)


class EngineThread:
    """A thread that runs jobs one after another.

    While it is idle, it has a reference only to its inbox, so that the owner of the jobs and its
    networks can be garbage-collected. The thread then ends.

    Attributes:
        stopped: a sentence with the reason why no more jobs run; None while jobs run.
    """

    def __init__(self) -> None:
        self.stopped: str | None = None
        self._inbox: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._lock = threading.RLock()  # reentrant, because garbage collection may call `stop`
        self._thread: threading.Thread | None = None
        self._pid: int | None = None
        self._finalizer: weakref.finalize[..., object] | None = None

    def start(self, owner: object, job: Callable[[], None]) -> None:
        """Start the thread with a first job, unless it has started. It ends with `owner`."""
        if self._pid is not None:
            return
        with self._lock:
            if self._thread is None and self.stopped is None:
                thread = threading.Thread(target=self._run, name="engine", daemon=True)
                thread.start()
                self._finalizer = weakref.finalize(owner, self._end_with_owner)
                self._thread, self._pid = thread, os.getpid()
                self._inbox.put(job)

    def put(self, job: Callable[[], None]) -> None:
        """Queue a job, which must not raise. It runs if the thread runs."""
        if self._thread is not None and self.stopped is None:
            self._inbox.put(job)

    def stop(self, why: str = CLOSED) -> None:
        """Run no more jobs. The first reason is kept. Returns immediately."""
        with self._lock:
            self.stopped = self.stopped or why
            if self._finalizer is not None:
                self._finalizer.detach()
        self._inbox.put(None)

    def join(self) -> None:
        """Wait for the running job after `stop`."""
        if self._thread is not None:
            self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether jobs that are queued now will run."""
        return self._thread is not None and self._thread.is_alive() and self.stopped is None

    @property
    def forked(self) -> bool:
        """Whether the thread was started in another process than this one."""
        return self._pid is not None and self._pid != os.getpid()

    def check(self) -> None:
        """Raise EngineUnavailable if jobs that are queued now never run."""
        if self.forked:
            raise EngineUnavailable(FORKED)
        if self.stopped is not None:
            raise EngineUnavailable(self.stopped)

    def check_wait(self) -> None:
        """Raise EngineUnavailable if waiting for a job would block forever."""
        if self.forked:
            raise EngineUnavailable(FORKED)
        if threading.current_thread() is self._thread:
            raise EngineUnavailable(ON_THREAD)

    def _run(self) -> None:
        while (job := self._inbox.get()) is not None:
            job()
            del job  # it refers to the owner

    def _end_with_owner(self) -> None:
        """The owner was garbage-collected, or the interpreter exits."""
        if self.forked:
            return
        self.stop()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(EXIT_SECONDS)


class EngineFuture(Future[T]):
    """A future of the engine thread. It raises an error instead of blocking forever."""

    def __init__(self, thread: EngineThread) -> None:
        super().__init__()
        self._engine_thread = thread
        self.set_running_or_notify_cancel()  # only `FlowHandle.cancel` may cancel: it frees rows

    def result(self, timeout: float | None = None) -> T:
        """As Future.result, or raise EngineUnavailable."""
        if not self.done():
            self._engine_thread.check_wait()
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As Future.exception, or raise EngineUnavailable."""
        if not self.done():
            self._engine_thread.check_wait()
        return super().exception(timeout)
