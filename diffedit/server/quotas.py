"""Quotas of an API key: edits at a time, and edits a minute."""

from __future__ import annotations

import time
from collections import deque

from diffedit.server.errors import ApiError
from diffedit.server.settings import Settings

WINDOW_SECONDS = 60.0


class Quotas:
    """The use of each API key. Without keys there are no quotas.

    Keys without a request in the last minute are dropped.
    """

    def __init__(self, settings: Settings) -> None:
        self._at_a_time, self._a_minute = settings.key_max_edits, settings.key_edits_per_minute
        self._admitted: dict[str, deque[float]] = {}

    def check(self, owner: str | None, held: int, count: int = 1) -> None:
        """Raise ApiError if `count` more edits exceed a quota: 429, or 400 if they always would.

        Args:
            owner: name of the key, or None.
            held: its running and queued edits.
            count: edits of the request.
        """
        if owner is None:
            return
        for limit in (self._at_a_time, self._a_minute):
            if limit is not None and count > limit:
                message = f"n is {count}, but the quota of an API key is {limit}; send a smaller n."
                raise ApiError(400, "quota_exceeded", message, "n")
        if self._at_a_time is not None and held + count > self._at_a_time:
            raise _exceeded(
                f"This API key has {held} running and queued edits, but its quota is "
                f"{self._at_a_time}; wait until one of them has finished.",
                retry_after=5,
            )
        if self._a_minute is not None and (wait := self._wait(owner, count)) > 0:
            raise _exceeded(
                f"This API key has used its quota of {self._a_minute} edits a minute; try again in "
                f"{wait:.0f} s.",
                retry_after=wait,
            )

    def count(self, owner: str | None, count: int) -> None:
        """Record the edits of an admitted request."""
        if owner is not None and self._a_minute is not None:
            self._admitted.setdefault(owner, deque()).extend([time.monotonic()] * count)

    def _wait(self, owner: str, count: int) -> float:
        """Seconds until a key may have `count` more edits; 0 if it may now."""
        assert self._a_minute is not None
        began = time.monotonic() - WINDOW_SECONDS
        for name, times in list(self._admitted.items()):
            while times and times[0] <= began:
                times.popleft()
            if not times:
                del self._admitted[name]
        times = self._admitted.get(owner, deque())
        excess = len(times) + count - self._a_minute
        return times[excess - 1] - began if excess > 0 else 0.0


def _exceeded(message: str, *, retry_after: float) -> ApiError:
    return ApiError(429, "quota_exceeded", message, retry_after=retry_after)
