"""uvicorn's HTTP protocol, which waits for a request's headers only so long.

By itself it waits for ever, and for a client that sends a letter now and then as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

LATE = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class _TimedProtocol(H11Protocol):
    """One connection; a timer runs while the headers of a request are awaited."""

    seconds: float
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._rest()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self.conn.their_state is not h11.IDLE:  # they have come
            self._rest()
        elif self._timer is None:
            self._timer = self.loop.call_later(self.seconds, self._late)

    def _rest(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.write(LATE)
            self.transport.close()


def header_timeout(seconds: float) -> Callable[..., _TimedProtocol]:
    """Makes such connections, for uvicorn's `http`."""

    def make(*arguments: Any, **named: Any) -> _TimedProtocol:
        made = _TimedProtocol(*arguments, **named)
        made.seconds = seconds
        return made

    return make
