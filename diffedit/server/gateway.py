"""The gateway of several replicas: reads each request, dispatches it, and forwards the response.

The gateway computes a routing key for each request. Edits of one image have the same key, because
the replica that edited an image has its trajectory in the cache. The key of a request for a job is
the replica of the job. The `Dispatch` function sends the request to a replica.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from types import SimpleNamespace

from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import Message, Receive, Scope, Send

from diffedit.server import form_body
from diffedit.server.errors import ApiError, draining
from diffedit.server.forwarding import ForwardedRequest
from diffedit.server.metrics import Metrics
from diffedit.server.settings import Settings
from diffedit.server.uploads import Uploads

METHODS_WITH_BODY = ("POST", "PUT", "PATCH")
"""Methods whose bodies are read."""
READYZ_SECONDS = 2.0
"""Timeout of the readiness probe."""
PIECE_BYTES = 256 * 1024
"""Bytes of a form that are parsed at once."""
HOP_BY_HOP_HEADERS = (
    *(b"connection", b"keep-alive", b"transfer-encoding", b"upgrade"),
    *(b"te", b"trailer"),
)

Dispatch = Callable[[ForwardedRequest], AsyncIterator[list[Message]]]
"""Sends a request to a replica and yields the ASGI messages of the response.

Raises `ReplicaLost` or `ReplicasBusy`.
"""


class ReplicaLost(Exception):
    """A replica died with the request."""


class ReplicasBusy(Exception):
    """No replica accepts more requests now."""


class Gateway:
    """ASGI application. Runs behind `AuthMiddleware` and `AccessLog`.

    If a replica dies before its response begins, the request is dispatched once more. This is safe,
    because an edit depends on its form only. Otherwise the client gets 503, or an `error` event if
    the response is an event stream.

    Args:
        dispatch: sends requests to replicas.
        settings: limits of uploads.
        replica_metrics: returns the merged metrics of the replicas.

    Attributes:
        draining: whether new requests are refused because the server shuts down.
    """

    def __init__(
        self,
        dispatch: Dispatch,
        settings: Settings,
        replica_metrics: Callable[[], Awaitable[str]],
    ) -> None:
        self.draining = False
        self._dispatch, self._settings = dispatch, settings
        self._replica_metrics = replica_metrics
        self._uploads = Uploads(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        scope["route"] = SimpleNamespace(path=_route_template(scope["path"]))
        own_routes = {"/livez": self._live, "/metrics": self._metrics}
        if scope["method"] == "GET" and scope["path"] in own_routes:
            response = await own_routes[scope["path"]]()
            await response(scope, receive, send)
            return
        body = await self._read_body(receive) if scope["method"] in METHODS_WITH_BODY else b""
        request = await self._request(scope, body)
        if self.draining and (request.method == "POST" or request.path == "/readyz"):
            raise draining()
        try:
            async with asyncio.timeout(READYZ_SECONDS if request.path == "/readyz" else None):
                await self._forward(request, send)
        except TimeoutError:
            message = "No replica is ready; try again in a moment."
            raise ApiError(503, "not_ready", message, retry_after=2) from None

    async def _read_body(self, receive: Receive) -> bytes:
        """Read the whole body within `upload_seconds`."""
        chunks: list[bytes] = []
        try:
            async with self._uploads.reading(receive) as counted_receive:
                more = True
                while more:
                    message = await counted_receive()
                    if message["type"] == "http.disconnect":
                        raise ApiError(400, "malformed", "The body is incomplete; send it again.")
                    chunks.append(message.get("body", b""))
                    more = message.get("more_body", False)
        except TimeoutError:
            raise form_body.upload_timeout(self._settings) from None
        return b"".join(chunks)

    async def _request(self, scope: Scope, body: bytes) -> ForwardedRequest:
        request = ForwardedRequest(
            scope["method"],
            scope["path"],
            scope["query_string"],
            tuple(item for item in scope["headers"] if item[0] not in HOP_BY_HOP_HEADERS),
            body,
            scope["state"]["request_id"],
            scope["state"]["owner"],
        )
        return replace(request, routing_key=await routing_key(request, self._settings))

    async def _forward(self, request: ForwardedRequest, send: Send) -> None:
        """Dispatch a request, and once more if its replica dies before the response begins."""
        response = _Response(send)
        for last_attempt in (False, True):
            try:
                async with aclosing(self._dispatch(request)) as batches:  # type: ignore[type-var]
                    async for messages in batches:
                        await response.send(messages)
                return
            except ReplicasBusy:
                message = "The queues of all replicas are full; try again a little later."
                raise ApiError(429, "queue_full", message, retry_after=5) from None
            except ReplicaLost:
                error = ApiError(
                    503,
                    "engine_lost",
                    "The replica that processed this request has stopped; send it again.",
                    retry_after=1,
                )
                if response.is_event_stream:
                    await response.end_with_error(error)
                    return
                if response.started:
                    raise  # an incomplete image cannot be repaired: close the connection
                if last_attempt:
                    raise error from None

    async def _live(self) -> Response:
        return JSONResponse({"status": "live"})

    async def _metrics(self) -> Response:
        return PlainTextResponse(await self._replica_metrics(), media_type=Metrics.content_type)


class _Response:
    """The response of a replica on its way to the client."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = self.is_event_stream = False

    async def send(self, messages: list[Message]) -> None:
        for message in messages:
            if message["type"] == "http.response.start":
                content_type = Headers(raw=message["headers"]).get("content-type", "")
                self.started = True
                self.is_event_stream = content_type.startswith("text/event-stream")
            await self._send(message)

    async def end_with_error(self, error: ApiError) -> None:
        """End an event stream with an `error` event."""
        event = f"event: error\r\ndata: {json.dumps(error.body)}\r\n\r\n".encode()
        await self._send({"type": "http.response.body", "body": event, "more_body": False})


async def routing_key(request: ForwardedRequest, settings: Settings) -> str:
    """Return the key that chooses the replica of a request.

    "image:DIGEST": an edit. Prefers the replica of this key, but a less busy one may run it.
    "pinned:DIGEST": a request with an Idempotency-Key. Requests with the same key always go to the
    same replica, which has the job of the first.
    "replica:NAME": a request for a job of this replica, or with the id of one of its results.
    "": any replica.
    """
    if job := re.match(r"/v1/(?:jobs|masks)/(\w+)-", request.path):
        return f"replica:{job[1]}"
    if request.method != "POST" or not request.body:
        return ""
    key = Headers(raw=list(request.headers)).get("idempotency-key")
    pinned = f"pinned:{_digest(f'{request.owner} {key}'.encode())}" if key else ""
    receive = _in_pieces(request.body)
    try:
        form = await Request(request.scope(), receive).form(**form_body.parser_limits(settings))
    except (MultiPartException, ValueError):
        return pinned  # every replica refuses it alike
    try:
        image = form.get("image") or form.get("image[]")
        if holder := _holder(form):
            return f"replica:{holder}"
        if pinned or not isinstance(image, UploadFile):
            return pinned
        return f"image:{await asyncio.to_thread(_digest, await image.read())}"
    finally:
        await form.close()


def _holder(form: FormData) -> str | None:
    """Return the replica with the earlier results of a form; that of the image, if it has both."""
    for name in ("previous_edit_id", "mask_id"):
        text = form.get(name)
        if isinstance(text, str) and (found := re.match(r"(\w+)-", text)):
            return found[1]
    return None


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def _in_pieces(body: bytes) -> Receive:
    """Receive a body in pieces, so that other requests are served while it is parsed."""
    starts = iter(range(0, len(body), PIECE_BYTES))

    async def receive() -> Message:
        await asyncio.sleep(0)
        start = next(starts)
        piece, more = body[start : start + PIECE_BYTES], start + PIECE_BYTES < len(body)
        return {"type": "http.request", "body": piece, "more_body": more}

    return receive


def _route_template(path: str) -> str:
    """Return a path without job ids, for log and metrics; "other" if it is unknown."""
    fixed = r"/v1/(images/edits|masks(?:/read)?|models|jobs)|/(livez|readyz|metrics|openapi\.json)?"
    if re.fullmatch(fixed, path):
        return path
    if re.fullmatch(r"/v1/masks/[^/]+", path):
        return "/v1/masks/{mask_id}"
    job = re.fullmatch(r"/v1/jobs/[^/]+((?:/(?:events|image|mask|blend_mask))?)", path)
    return f"/v1/jobs/{{job_id}}{job[1]}" if job else "other"


async def _lifespan(receive: Receive, send: Send) -> None:
    """Acknowledge startup and shutdown; the gateway holds no resources."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
