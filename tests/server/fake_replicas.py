"""A gateway in front of fake replicas that respond, die or stall."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx2 as httpx
from starlette.types import ASGIApp, Message

from diffedit.server import Settings
from diffedit.server.access_log import AccessLog
from diffedit.server.auth import ApiKeys, AuthMiddleware
from diffedit.server.forwarding import ForwardedRequest
from diffedit.server.gateway import Dispatch, Gateway, ReplicaLost, ReplicasBusy
from tests.server.helpers import PROMPTS, image_bytes

NEVER = 3600.0


def start_message(content_type: str = "application/json") -> Message:
    headers = [(b"content-type", content_type.encode())]
    return {"type": "http.response.start", "status": 200, "headers": headers}


def body_message(data: bytes, *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def replica_metrics() -> str:
    return "requests 1\n"


def make_gateway(dispatch: Dispatch, keys: ApiKeys | None = None, **limits: float) -> ASGIApp:
    """A gateway with its middleware, as `ray_app.Ingress` builds it."""
    defaults = {"upload_seconds": 60.0, "max_body_bytes": 200_000}
    settings = Settings.model_validate({**defaults, **limits})
    gateway = Gateway(dispatch, settings, replica_metrics)
    return AccessLog(AuthMiddleware(gateway, settings, keys), lambda *_: None)


def send(app: ASGIApp, method: str, path: str, **more: Any) -> httpx.Response:
    async def request() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, **more)

    return asyncio.run(request())


def post_edit(app: ASGIApp, **more: Any) -> httpx.Response:
    files = {"image": image_bytes()}
    return send(app, "POST", "/v1/images/edits", files=files, data=PROMPTS, **more)


class FakeReplicas:
    """A dispatch function that behaves as scripted, one action per request.

    Actions: "respond", "busy", "stall"; "die", "die in stream" and "die in image" for a replica
    that dies before or during its response.
    """

    def __init__(self, *actions: str) -> None:
        self.actions, self.requests = list(actions), list[ForwardedRequest]()

    async def __call__(self, request: ForwardedRequest) -> AsyncIterator[list[Message]]:
        self.requests.append(request)
        action = self.actions.pop(0)
        if action == "busy":
            raise ReplicasBusy
        if action == "stall":
            await asyncio.sleep(NEVER)
        if action == "respond":
            yield [start_message(), body_message(b"{}")]
            return
        if action.startswith("die in"):
            content_type = "text/event-stream" if action == "die in stream" else "image/png"
            yield [start_message(content_type), body_message(b"a", more=True)]
        raise ReplicaLost
