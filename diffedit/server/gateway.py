"""The door of several servers: reads a request whole, has one of them answer, passes that on.

    Call    an HTTP request as plain data
    play    a server's answer to a call
    Gateway   the ASGI application in front

Which server is `Carry`'s business; the front only says what to go by: an edit by its picture, since
one server keeps that picture's trajectory, and a job by the server that has it. Nothing here knows
what carries the calls.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from types import SimpleNamespace

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diffedit.server import forms
from diffedit.server.errors import ApiError
from diffedit.server.settings import Settings

READY_SECONDS = 2.0
LEAVE_SECONDS = 5.0
"""How long a server may take to notice that its client left, before it is cut off."""
HOP = (b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"te", b"trailer")


class Lost(Exception):
    """A server went away with what it held."""


class Full(Exception):
    """No server takes anything more now."""


@dataclass(frozen=True)
class Call:
    """An HTTP request as plain data.

    Attributes:
        request_id, owner: as the door found them.
        prefer: what its server is chosen by: "image:DIGEST" goes elsewhere where that is quicker,
            "keep:DIGEST" and "server:NAME" do not; or nothing.
    """

    method: str
    path: str
    query: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    request_id: str
    owner: str | None
    prefer: str = ""

    def scope(self) -> Scope:
        """As ASGI has it."""
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


Carry = Callable[[Call], AsyncIterator[list[Message]]]
"""Takes a call to a server; yields its answer as ASGI messages, raises `Lost` or `Full`."""


async def play(app: ASGIApp, call: Call) -> AsyncIterator[list[Message]]:
    """An application's answer to a call. To close it early is to leave as its client."""
    messages: asyncio.Queue[Message | None] = asyncio.Queue()
    left = asyncio.Event()
    body: list[Message] = [{"type": "http.request", "body": call.body, "more_body": False}]

    async def receive() -> Message:
        if body:
            return body.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        messages.put_nowait(message)

    async def run() -> None:
        try:
            await app(call.scope(), receive, send)
        finally:
            messages.put_nowait(None)

    running = asyncio.create_task(run())
    try:
        over = False
        while not over:
            found = [await messages.get()]
            while not messages.empty():
                found.append(messages.get_nowait())
            over = found[-1] is None
            if told := [message for message in found if message is not None]:
                yield told
        await running
    finally:
        left.set()
        if not running.done():
            await asyncio.wait([running], timeout=LEAVE_SECONDS)
            running.cancel()


class Gateway:
    """The ASGI application in front. Behind `AuthMiddleware` and `AccessLog`, as every server is.

    A call that is lost before any of its answer was sent is carried once more: an edit is a
    function of its form alone. After that, and once an answer has begun, its client hears 503.
    """

    def __init__(
        self, carry: Carry, settings: Settings, figures: Callable[[], Awaitable[str]]
    ) -> None:
        self.draining = False
        self._carry, self._settings, self._figures = carry, settings, figures
        self._uploads = asyncio.Semaphore(settings.max_uploads)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        scope["route"] = SimpleNamespace(path=_shape(scope["path"]))
        own = {"/livez": self._live, "/metrics": self._told_figures}.get(scope["path"])
        if own is not None and scope["method"] == "GET":
            answer = await own()
            await answer(scope, receive, send)
            return
        call = await self._call(scope, receive)
        if self.draining and (call.method == "POST" or call.path == "/readyz"):
            raise ApiError(503, "draining", "The server is shutting down.", retry_after=5)
        limit = READY_SECONDS if scope["path"] == "/readyz" else None
        try:
            async with asyncio.timeout(limit):
                await self._pass_on(call, send)
        except TimeoutError:
            raise ApiError(503, "not_ready", "No server is ready.", retry_after=2) from None

    async def _pass_on(self, call: Call, send: Send) -> None:
        stream = begun = False
        for last in (False, True):
            try:
                async with aclosing(self._carry(call)) as answer:  # type: ignore[type-var]
                    async for messages in answer:
                        for message in messages:
                            if message["type"] == "http.response.start":
                                begun, stream = True, _is_stream(message)
                            await send(message)
                return
            except Full:
                why = "Every server has as much to do as it may take; try again a little later."
                raise ApiError(429, "queue_full", why, retry_after=5) from None
            except Lost:
                gone = ApiError(
                    503,
                    "engine_lost",
                    "The server that had this request has gone; send it again.",
                    retry_after=1,
                )
                if begun and stream:
                    told = f"event: error\r\ndata: {json.dumps(gone.body)}\r\n\r\n".encode()
                    await send({"type": "http.response.body", "body": told, "more_body": False})
                    return
                if begun:
                    raise  # half a picture cannot be mended; the connection ends
                if last:
                    raise gone from None

    async def _call(self, scope: Scope, receive: Receive) -> Call:
        """The request with all of its body, within the time that an upload may take."""
        chunks: list[bytes] = []
        try:
            async with asyncio.timeout(self._settings.upload_seconds), self._uploads:
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ApiError(400, "malformed", "The request was not sent whole.")
                    chunks.append(message.get("body", b""))
                    more = message.get("more_body", False)
        except TimeoutError:
            raise forms.too_slow(self._settings) from None
        call = Call(
            scope["method"],
            scope["path"],
            scope["query_string"],
            tuple((name, value) for name, value in scope["headers"] if name not in HOP),
            b"".join(chunks),
            scope["state"]["request_id"],
            scope["state"]["owner"],
        )
        return replace(call, prefer=await preference(call, self._settings))

    async def _live(self) -> Response:
        return JSONResponse({"status": "live"})

    async def _told_figures(self) -> Response:
        return PlainTextResponse(
            await self._figures(), media_type="text/plain; version=0.0.4; charset=utf-8"
        )


async def preference(call: Call, settings: Settings) -> str:
    """What a call's server is chosen by; see `Call.prefer`."""
    if named := re.match(r"/v1/jobs/([\w]+)-", call.path):
        return f"server:{named[1]}"
    if call.method != "POST" or not call.body:
        return ""
    body: list[Message] = [{"type": "http.request", "body": call.body, "more_body": False}]

    async def receive() -> Message:
        return body.pop()

    try:
        read = await Request(call.scope(), receive).form(**forms.bounds(settings))
    except (MultiPartException, ValueError):
        return ""  # any server can say what is wrong with it
    try:
        image = read.get("image") or read.get("image[]")
        if not isinstance(image, UploadFile):
            return ""
        digest = hashlib.sha256(await image.read()).hexdigest()[:32]
        repeated = any(name == b"idempotency-key" for name, _ in call.headers)
        return f"{'keep' if repeated else 'image'}:{digest}"
    finally:
        await read.close()


def _is_stream(start: Message) -> bool:
    kind = Headers(raw=start["headers"]).get("content-type", "")
    return kind.startswith("text/event-stream")


def _shape(path: str) -> str:
    """A path without what is secret or endless in it, for the log."""
    known = r"/v1/(images/edits|masks|models|jobs)|/(livez|readyz|metrics|openapi\.json)?"
    if re.fullmatch(known, path):
        return path
    found = re.fullmatch(r"/v1/jobs/[^/]+((?:/(?:events|image|mask))?)", path)
    return f"/v1/jobs/{{job_id}}{found[1]}" if found else "other"


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
