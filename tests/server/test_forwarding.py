"""Forwarded requests: their routing keys, and running an application on them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the server extra")

from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diffedit.server.forwarding import ForwardedRequest, run_app
from tests.server.fake_replicas import NEVER, FakeReplicas, make_gateway, send, start_message
from tests.server.helpers import PROMPTS, image_bytes


def routing_key(method: str = "POST", path: str = "/v1/images/edits", **more: Any) -> str:
    replicas = FakeReplicas("respond")
    send(make_gateway(replicas), method, path, **more)
    return replicas.requests[0].routing_key


def test_routing_key_of_an_edit_depends_on_the_image_only() -> None:
    image, other = image_bytes(), image_bytes(80, 80)
    key = routing_key(files={"image": image}, data=PROMPTS)
    assert key.startswith("image:")
    assert key == routing_key(files={"image[]": ("b.png", image)}, data={"prompt": "another"})
    assert key == routing_key(path="/v1/masks", files={"image": image}, data=PROMPTS)
    assert key != routing_key(files={"image": other}, data=PROMPTS)


def test_requests_with_one_idempotency_key_go_to_one_replica() -> None:
    """Whatever their forms: a key that is used with another form must be refused."""

    def pinned(key: str, image: bytes) -> str:
        headers = {"Idempotency-Key": key}
        return routing_key(files={"image": image}, data=PROMPTS, headers=headers)

    first = pinned("a", image_bytes())
    assert first.startswith("pinned:")
    assert first == pinned("a", image_bytes(80, 80))
    assert first != pinned("b", image_bytes())


@pytest.mark.parametrize(
    ("path", "more", "key"),
    [
        ("/v1/jobs/abc123-0123456789ab/events", {}, "replica:abc123"),
        ("/v1/jobs/abc", {}, ""),
        ("/v1/images/edits", {"content": b"no form"}, ""),
        ("/v1/images/edits", {"data": {"image": "text"}}, ""),
        (
            "/v1/images/edits",
            {"content": b"--x", "headers": {"Content-Type": "multipart/form-data; boundary=y"}},
            "",
        ),
        (
            "/v1/images/edits",
            {"content": b"--x", "headers": {"Content-Type": "multipart/form-data"}},
            "",
        ),
    ],
)
def test_routing_key_of_other_requests(path: str, more: dict[str, Any], key: str) -> None:
    assert routing_key(path=path, **more) == key


def test_run_app_passes_the_request_and_the_response_on() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        text = f"{request.method} {request.url.path} {request.query_params['a']} "
        text += f"{request.state.owner} {(await request.body()).decode()}"
        await PlainTextResponse(text)(scope, receive, send)

    request = ForwardedRequest("POST", "/there", b"a=1", (), b"body", "id", "alice")

    async def collect() -> list[list[Message]]:
        return [messages async for messages in run_app(app, request)]

    (messages,) = asyncio.run(collect())
    assert messages[1]["body"] == b"POST /there 1 alice body"


Response = AsyncGenerator[list[Message], None]


def run(app: ASGIApp, client: Callable[[Response], Awaitable[None]]) -> None:
    """Run an application and let a client consume the response."""
    request = ForwardedRequest("GET", "/", b"", (), b"", "id", None)

    async def main() -> None:
        response = run_app(app, request)
        assert isinstance(response, AsyncGenerator)
        await client(response)

    asyncio.run(main())


async def disconnect_after_first_batch(response: Response) -> None:
    await anext(response)
    await response.aclose()
    await asyncio.sleep(0)  # lets a cancelled application end


def test_closing_the_response_disconnects_the_client() -> None:
    received = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "http.request"
        await send(start_message())
        received.append((await receive())["type"])

    run(app, disconnect_after_first_batch)
    assert received == ["http.disconnect"]


def test_application_that_ignores_the_disconnect_is_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("diffedit.server.forwarding.DISCONNECT_SECONDS", 0.05)
    ended = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start_message())
        try:
            await asyncio.sleep(NEVER)
        finally:
            ended.append(True)

    run(app, disconnect_after_first_batch)
    assert ended == [True]


def test_exception_of_the_application_is_raised() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("a bug")

    async def consume(response: Response) -> None:
        with pytest.raises(RuntimeError, match="a bug"):
            await anext(response)

    run(app, consume)
