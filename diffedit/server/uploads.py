"""Limit the time of each request body that is being read, and the memory of all of them.

A slow upload uses memory only for the bytes that have arrived, so it does not delay others. If the
memory is full, the upload with the most byte-seconds is refused.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import Message, Receive

from diffedit.server.settings import Settings


class Uploads:
    """The bodies that one server is reading."""

    def __init__(self, settings: Settings) -> None:
        self._max_bytes = settings.max_uploads * settings.max_body_bytes
        self._seconds = settings.upload_seconds
        self._open: set[_Upload] = set()

    @property
    def count(self) -> int:
        """Number of bodies that are being read."""
        return len(self._open)

    @property
    def received_bytes(self) -> int:
        """Bytes in memory."""
        return sum(upload.received for upload in self._open)

    @asynccontextmanager
    async def reading(self, receive: Receive) -> AsyncIterator[Receive]:
        """Count the bytes that are received in the block, which has `upload_seconds`.

        Raises TimeoutError if the body does not arrive in time, or has the most byte-seconds when
        the memory is full.
        """
        async with asyncio.timeout(self._seconds) as timeout:
            upload = _Upload(timeout)
            self._open.add(upload)

            async def counted_receive() -> Message:
                message = await receive()
                upload.received += len(message.get("body", b""))
                self._make_room()
                return message

            try:
                yield counted_receive
            finally:
                self._open.discard(upload)

    def _make_room(self) -> None:
        while self.received_bytes > self._max_bytes:
            dropped = max(self._open, key=_Upload.byte_seconds)
            dropped.timeout.reschedule(asyncio.get_running_loop().time())
            self._open.discard(dropped)


class _Upload:
    """One body.

    Attributes:
        timeout: ends the reading.
        received: bytes so far.
    """

    def __init__(self, timeout: asyncio.Timeout) -> None:
        self.timeout = timeout
        self.received = 0
        self._began = time.monotonic()

    def byte_seconds(self) -> float:
        """Bytes received, times the seconds since the upload began."""
        return self.received * (time.monotonic() - self._began + 1e-3)
