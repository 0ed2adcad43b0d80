"""Wait for something that another thread does."""

from __future__ import annotations

import time
from collections.abc import Callable

SECONDS = 20.0


def eventually(condition: Callable[[], bool]) -> bool:
    """Whether the condition becomes true within `SECONDS`."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
