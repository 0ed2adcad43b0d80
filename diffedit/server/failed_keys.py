"""Slow down clients that guess API keys: after several failures in a minute, each waits."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque

FREE_FAILURES = 5
"""Failures of one address in a minute that are answered without delay."""
DELAY_SECONDS = 1.0
WINDOW_SECONDS = 60.0
MAX_ADDRESSES = 10_000


class FailedKeys:
    """The failures of the last minute by address. Requests with a valid key are never delayed."""

    def __init__(self) -> None:
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    async def slow_down(self, address: str) -> None:
        """Record a failure of an address, and wait if it has failed often."""
        now = time.monotonic()
        failures = self._failures.setdefault(address, deque(maxlen=FREE_FAILURES + 1))
        self._failures.move_to_end(address)
        while len(self._failures) > MAX_ADDRESSES:
            self._failures.popitem(last=False)
        failures.append(now)
        if len(failures) > FREE_FAILURES and failures[0] > now - WINDOW_SECONDS:
            await asyncio.sleep(DELAY_SECONDS)
