"""SIGINT and SIGTERM end a training run in an orderly way."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


class Interrupted(Exception):
    """A signal ended the run."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_status = 128 + number


class Interrupts:
    """The signal handler: raises `Interrupted` at once, or at the end of a `deferred` block."""

    def __init__(self) -> None:
        self._received: int | None = None
        self._deferred = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self._received = number
        if not self._deferred:
            raise Interrupted(number)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Finish the block before a signal that arrived meanwhile raises `Interrupted`."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        if self._received is not None:
            raise Interrupted(self._received)


@contextlib.contextmanager
def interruptible() -> Iterator[Interrupts]:
    """Install the handler for the length of the block."""
    handler = Interrupts()
    previous = {
        number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield handler
    finally:
        for number, old in previous.items():
            signal.signal(number, old)
