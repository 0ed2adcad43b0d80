"""An HTTP request as plain data, and running an ASGI application on it.

The gateway creates a `ForwardedRequest`. A replica, in another process, runs its application on it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Scope

from diffedit.server.threads import retrieve_exception

log = logging.getLogger(__name__)

DISCONNECT_SECONDS = 5.0
"""Seconds between a client's disconnection and the cancellation of the application."""


@dataclass(frozen=True)
class ForwardedRequest:
    """An HTTP request with its whole body.

    Attributes:
        request_id, owner: set by the gateway's middleware.
        routing_key: how to choose the replica, see `gateway.routing_key`.
    """

    method: str
    path: str
    query: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    request_id: str
    owner: str | None
    routing_key: str = ""

    def scope(self) -> Scope:
        """Return the ASGI connection scope."""
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "http",
            "method": self.method,
            "path": self.path,
            "raw_path": self.path.encode(),
            "query_string": self.query,
            "root_path": "",
            "headers": list(self.headers),
            "client": None,
            "server": None,
            "state": {"request_id": self.request_id, "owner": self.owner},
        }


async def run_app(app: ASGIApp, request: ForwardedRequest) -> AsyncIterator[list[Message]]:
    """Run an application and yield its ASGI messages, in batches of those available.

    Closing the iterator early disconnects the client. Exceptions of the application are raised.
    """
    messages: asyncio.Queue[Message | None] = asyncio.Queue()
    disconnected = asyncio.Event()
    body: list[Message] = [{"type": "http.request", "body": request.body, "more_body": False}]

    async def receive() -> Message:
        if body:
            return body.pop()
        await disconnected.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        messages.put_nowait(message)

    async def run() -> None:
        try:
            await app(request.scope(), receive, send)
        finally:
            messages.put_nowait(None)

    task = asyncio.create_task(run())
    try:
        done = False
        while not done:
            batch = [await messages.get()]
            while not messages.empty():
                batch.append(messages.get_nowait())
            done = batch[-1] is None
            if available := [message for message in batch if message is not None]:
                yield available
        await task
    finally:
        disconnected.set()
        if not task.done():
            await asyncio.wait([task], timeout=DISCONNECT_SECONDS)
            task.cancel()
        if error := retrieve_exception(task):
            log.debug("request %s failed", request.request_id, exc_info=error)
