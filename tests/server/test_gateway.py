"""The gateway, with fake replicas that respond, die or stall."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the server extra")

import httpx2 as httpx
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diffedit.server import Settings
from diffedit.server.access_log import AccessLog
from diffedit.server.auth import ApiKeys, AuthMiddleware
from diffedit.server.forwarding import ForwardedRequest, run_app
from diffedit.server.gateway import Dispatch, Gateway, ReplicaLost, ReplicasBusy
from diffedit.server.metrics import merge_metrics
from tests.server.helpers import PROMPTS, image_bytes

KEY = "k" * 20
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


def error_code(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


# -- lost, busy and slow replicas ------------------------------------------------------------------


def test_request_of_a_dead_replica_is_dispatched_again() -> None:
    replicas = FakeReplicas("die", "respond")
    assert post_edit(make_gateway(replicas)).status_code == 200
    first, second = replicas.requests
    assert first == second
    assert len(first.body) > 1000


def test_request_that_loses_two_replicas_gets_503() -> None:
    replicas = FakeReplicas("die", "die", "respond")
    response = post_edit(make_gateway(replicas))
    assert error_code(response) == (503, "engine_lost")
    assert response.headers["retry-after"] == "1"
    assert len(replicas.requests) == 2


def test_interrupted_stream_ends_with_an_error_event() -> None:
    replicas = FakeReplicas("die in stream")
    response = post_edit(make_gateway(replicas))
    assert response.text.startswith("a")
    event, data = response.text.removeprefix("a").strip().split("\r\n")
    assert event == "event: error"
    assert json.loads(data.removeprefix("data: "))["error"]["code"] == "engine_lost"
    assert len(replicas.requests) == 1, "a response that has begun is not repeated"


def test_interrupted_image_closes_the_connection() -> None:
    with pytest.raises(ReplicaLost):
        post_edit(make_gateway(FakeReplicas("die in image")))


def test_busy_replicas_get_429() -> None:
    response = post_edit(make_gateway(FakeReplicas("busy")))
    assert error_code(response) == (429, "queue_full")
    assert int(response.headers["retry-after"]) >= 1


def test_readiness_probe_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffedit.server.gateway.READYZ_SECONDS", 0.1)
    response = send(make_gateway(FakeReplicas("stall")), "GET", "/readyz")
    assert error_code(response) == (503, "not_ready")


# -- requests that no replica sees -----------------------------------------------------------------


def test_gateway_responds_to_probes_and_invalid_requests_itself() -> None:
    replicas = FakeReplicas()
    app = make_gateway(replicas)
    assert send(app, "GET", "/livez").json() == {"status": "live"}
    assert send(app, "GET", "/metrics").text == "requests 1\n"
    foreign = send(app, "GET", "/v1/models", headers={"Host": "evil.example"})
    assert foreign.status_code == 403
    large = send(app, "POST", "/v1/images/edits", content=b"x" * 200_001)
    assert large.status_code == 413
    assert replicas.requests == []


def test_gateway_checks_keys_and_forwards_owner_and_request_id(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"alice {KEY}\n")
    replicas, keys = FakeReplicas("respond"), ApiKeys.read(tmp_path / "keys")
    app = make_gateway(replicas, keys)
    assert post_edit(app).status_code == 401
    headers = {"Authorization": f"Bearer {KEY}", "X-Request-Id": "mine"}
    assert post_edit(app, headers=headers).headers["x-request-id"] == "mine"
    (request,) = replicas.requests
    assert (request.owner, request.request_id) == ("alice", "mine")


def test_slow_upload_times_out() -> None:
    async def slow_body() -> AsyncIterator[bytes]:
        yield b"a"
        await asyncio.sleep(NEVER)

    replicas = FakeReplicas("respond")
    app = make_gateway(replicas, upload_seconds=0.3)
    response = send(app, "POST", "/v1/images/edits", content=slow_body())
    assert error_code(response) == (408, "upload_timeout")
    assert replicas.requests == []


# -- routing keys ----------------------------------------------------------------------------------


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


# -- running an application on a request -----------------------------------------------------------


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


def test_merged_metrics_have_a_replica_label() -> None:
    text = '# HELP a_total Things.\n# TYPE a_total counter\na_total{kind="x"} 1.0\n'
    merged = merge_metrics({"r1": text, "r2": text.replace("1.0", "2.0")})
    assert 'a_total{kind="x",replica="r1"} 1.0' in merged
    assert 'a_total{kind="x",replica="r2"} 2.0' in merged
    assert merged.count("# TYPE a_total counter") == 1
