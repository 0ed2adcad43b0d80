"""JSON with large base64 texts, encoded piece by piece in threads while it is sent.

The images of a response may have hundreds of megabytes. Encoding them in one call would block the
event loop, even from a thread, because the encoders hold the GIL, and would need memory for the
whole text.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

PIECE_BYTES = 3 * 256 * 1024
"""Bytes that are encoded at once; a multiple of three, so that pieces need no padding."""
SMALL_BYTES = 256 * 1024
"""Parts up to this length are encoded on the event loop: that takes less time than a thread."""


@dataclass(frozen=True)
class Base64:
    """Bytes that become a base64 text in JSON."""

    data: bytes

    @property
    def encoded_length(self) -> int:
        return (len(self.data) + 2) // 3 * 4

    def split(self) -> Iterator[memoryview]:
        """Yield the bytes in parts that may be encoded one by one."""
        view = memoryview(self.data)
        for start in range(0, len(view), PIECE_BYTES):
            yield view[start : start + PIECE_BYTES]

    def pieces(self) -> Iterator[bytes]:
        """Yield the text in pieces."""
        return map(b64encode, self.split())


def parts_of(body: dict[str, Any]) -> list[bytes | Base64]:
    """Split the JSON of a body into text and its `Base64` values."""
    found: list[Base64] = []
    mark = secrets.token_hex(16)  # no text of the body can contain it

    def replace(value: Any) -> str:
        if not isinstance(value, Base64):
            raise TypeError(f"{type(value).__name__} is not JSON")
        found.append(value)
        return mark

    text = json.dumps(body, default=replace, ensure_ascii=False, separators=(",", ":"))
    first, *others = text.split(mark)
    parts: list[bytes | Base64] = [first.encode()]
    for value, rest in zip(found, others, strict=True):
        parts += [value, rest.encode()]
    return parts


def encode(body: dict[str, Any]) -> Iterator[bytes]:
    """Yield the JSON of a body in pieces."""
    return pieces_of(parts_of(body))


def pieces_of(parts: Iterable[bytes | Base64]) -> Iterator[bytes]:
    """Yield parts of JSON in pieces."""
    for part in parts:
        if isinstance(part, Base64):
            yield from part.pieces()
        else:
            yield part


class StreamedJson(Response):
    """A JSON response that is encoded in threads while the client reads it.

    Args:
        body: its values may contain `Base64`.
        headers: of the response.
        send_seconds: a client that does not accept a piece in this time is disconnected.
        while_sending: a context that is open while the response is sent.
    """

    media_type = "application/json"

    def __init__(
        self,
        body: dict[str, Any],
        headers: dict[str, str],
        *,
        send_seconds: float,
        while_sending: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._parts, self._seconds, self._context = parts_of(body), send_seconds, while_sending
        length = sum(
            part.encoded_length if isinstance(part, Base64) else len(part) for part in self._parts
        )
        super().__init__(headers={**headers, "Content-Length": str(length)})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        with self._context():
            start = {"status": self.status_code, "headers": self.raw_headers}
            await send({"type": "http.response.start", **start})
            small = b""  # parts that are sent together
            for part in self._parts:
                if isinstance(part, Base64) and part.encoded_length > SMALL_BYTES:
                    await self._send_piece(send, small)
                    small = b""
                    for data in part.split():
                        await self._send_piece(send, await asyncio.to_thread(b64encode, data))
                    continue
                small += b"".join(pieces_of([part]))
                if len(small) > SMALL_BYTES:
                    await self._send_piece(send, small)
                    small = b""
            await self._send_piece(send, small, last=True)

    async def _send_piece(self, send: Send, piece: bytes, *, last: bool = False) -> None:
        try:
            async with asyncio.timeout(self._seconds):
                await send({"type": "http.response.body", "body": piece, "more_body": not last})
        except TimeoutError:
            raise ClientDisconnect from None
