"""uvicorn's HTTP protocol with a timeout for request headers.

uvicorn itself waits for headers without a limit, even if a client sends one byte at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

TIMEOUT_RESPONSE = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class HeaderTimeoutProtocol(H11Protocol):
    """One connection. A timer runs while the connection waits for the headers of a request."""

    header_timeout: float
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._update_timer()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._update_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def _update_timer(self) -> None:
        if self.conn.their_state is not h11.IDLE:  # the headers are complete
            self._stop_timer()
        elif self._timer is None:
            self._timer = self.loop.call_later(self.header_timeout, self._on_timeout)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timeout(self) -> None:
        self._timer = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.write(TIMEOUT_RESPONSE)
            self.transport.close()


def header_timeout_protocol(seconds: float) -> Callable[..., HeaderTimeoutProtocol]:
    """Return a protocol factory for uvicorn's `http` option."""

    def create(*arguments: Any, **options: Any) -> HeaderTimeoutProtocol:
        protocol = HeaderTimeoutProtocol(*arguments, **options)
        protocol.header_timeout = seconds
        return protocol

    return create
