"""The threads that decode and encode images. API keys take turns in them, as they do in the queue.

Without turns, a key with many large images would make the small ones of others wait.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from diffedit.server.fair_queue import Owner
from diffedit.server.threads import complete

T = TypeVar("T")


class ImagePool:
    """Runs calls in a few threads. The next call is from the owner with the fewest running ones; of
    several, from the one that was served least recently.

    Args:
        threads: how many.
    """

    def __init__(self, threads: int) -> None:
        self._threads = ThreadPoolExecutor(threads, "image")
        self._lock = threading.Lock()
        self._waiting: dict[Owner, deque[tuple[Future[Any], Callable[[], Any]]]] = {}
        self._running: Counter[Owner] = Counter()
        self._served: dict[Owner, int] = {}  # owner with calls -> number of its last one
        self._number = 0

    def submit(self, owner: Owner, call: Callable[..., T], *arguments: Any) -> Future[T]:
        """Queue a call for an owner. A call that has not begun can be cancelled."""
        future: Future[T] = Future()
        with self._lock:
            self._waiting.setdefault(owner, deque()).append((future, partial(call, *arguments)))
        self._threads.submit(self._run_next)
        return future

    async def run(self, owner: Owner, call: Callable[..., T], *arguments: Any) -> T:
        """Run a call for an owner and wait for it."""
        return await asyncio.wrap_future(self.submit(owner, call, *arguments))

    def close(self) -> None:
        """Cancel the calls that have not begun, and end the threads without waiting."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        for calls in waiting.values():
            for future, _ in calls:
                future.cancel()

    def _turn(self, owner: Owner) -> tuple[int, int]:
        """The owner with the lowest is next; one that has just come is before the others."""
        return self._running[owner], self._served.get(owner, 0)

    def _run_next(self) -> None:
        with self._lock:
            if not self._waiting:  # closed
                return
            owner = min(self._waiting, key=self._turn)
            calls = self._waiting[owner]
            future, call = calls.popleft()
            self._number += 1
            self._served[owner] = self._number
            if not calls:
                del self._waiting[owner]
            self._running[owner] += 1
        try:
            if future.set_running_or_notify_cancel():
                complete(future, call)
        finally:
            with self._lock:
                self._running[owner] -= 1
                if not self._running[owner]:
                    del self._running[owner]
                if owner not in self._running and owner not in self._waiting:
                    self._served.pop(owner, None)
