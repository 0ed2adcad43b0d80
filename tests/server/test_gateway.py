"""The door of several servers, with made-up servers behind it that answer, vanish and stall."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
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
from diffedit.server.gateway import Call, Full, Gateway, Lost, play
from diffedit.server.metrics import merged
from tests.server.kit import TEXTS, picture

SETTINGS = Settings(upload_seconds=0.3, max_body_bytes=200_000)
Carry = Callable[[Call], AsyncIterator[list[Message]]]


def start(kind: str = "application/json", status: int = 200) -> Message:
    headers = [(b"content-type", kind.encode())]
    return {"type": "http.response.start", "status": status, "headers": headers}


def body(data: bytes, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def _figures() -> str:
    return "figures 1\n"


def door(carry: Carry, keys: ApiKeys | None = None) -> ASGIApp:
    return AccessLog(
        AuthMiddleware(Gateway(carry, SETTINGS, _figures), SETTINGS, keys), lambda *_: None
    )


def ask(app: ASGIApp, method: str, path: str, **more: Any) -> httpx.Response:
    async def call() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, **more)

    return asyncio.run(call())


class Behind:
    """Servers that do what is written down, one thing a call."""

    def __init__(self, *acts: str) -> None:
        self.acts, self.calls = list(acts), list[Call]()

    async def __call__(self, call: Call) -> AsyncIterator[list[Message]]:
        self.calls.append(call)
        act = self.acts.pop(0)
        if act == "full":
            raise Full
        if act == "stall":
            await asyncio.sleep(60)
        if act == "answer":
            yield [start(), body(b"{}")]
            return
        if act != "lost":
            yield [start("text/event-stream" if act == "stream" else "image/png"), body(b"a", True)]
        raise Lost


def edit(app: ASGIApp, **more: Any) -> httpx.Response:
    return ask(app, "POST", "/v1/images/edits", files={"image": picture()}, data=TEXTS, **more)


def test_a_lost_call_is_carried_once_more() -> None:
    behind = Behind("lost", "answer")
    assert edit(door(behind)).status_code == 200
    first, second = behind.calls
    assert first == second and len(first.body) > 1000


def test_a_call_lost_twice_is_told() -> None:
    behind = Behind("lost", "lost", "answer")
    answer = edit(door(behind))
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_lost")
    assert answer.headers["retry-after"] == "1"
    assert len(behind.calls) == 2


def test_a_stream_cut_off_ends_with_an_error() -> None:
    behind = Behind("stream")
    answer = edit(door(behind))
    assert answer.text.startswith("a")
    event, data = answer.text.removeprefix("a").strip().split("\r\n")
    assert event == "event: error"
    assert json.loads(data.removeprefix("data: "))["error"]["code"] == "engine_lost"
    assert len(behind.calls) == 1, "an answer that began is not begun again"


def test_half_a_picture_is_no_answer() -> None:
    with pytest.raises(Lost):
        edit(door(Behind("picture")))


def test_full_servers_are_told() -> None:
    answer = edit(door(Behind("full")))
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_full")
    assert int(answer.headers["retry-after"]) >= 1


def test_readiness_does_not_wait_for_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffedit.server.gateway.READY_SECONDS", 0.1)
    answer = ask(door(Behind("stall")), "GET", "/readyz")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")


def test_some_is_answered_at_the_door() -> None:
    behind = Behind()
    assert ask(door(behind), "GET", "/livez").json() == {"status": "live"}
    assert ask(door(behind), "GET", "/metrics").text == "figures 1\n"
    foreign = ask(door(behind), "GET", "/v1/models", headers={"Host": "evil.example"})
    assert foreign.status_code == 403
    large = ask(door(behind), "POST", "/v1/images/edits", content=b"x" * 200_001)
    assert large.status_code == 413
    assert behind.calls == []


def test_keys_are_asked_for_at_the_door_and_names_go_on(tmp_path: Any) -> None:
    (tmp_path / "keys").write_text(f"alice {'k' * 20}\n")
    behind, keys = Behind("answer"), ApiKeys.read(tmp_path / "keys")
    assert edit(door(behind, keys)).status_code == 401
    headers = {"Authorization": f"Bearer {'k' * 20}", "X-Request-Id": "mine"}
    assert edit(door(behind, keys), headers=headers).headers["x-request-id"] == "mine"
    (call,) = behind.calls
    assert (call.owner, call.request_id) == ("alice", "mine")


def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield b"a"
        await asyncio.sleep(2)
        yield b"b"

    behind = Behind("answer")
    answer = ask(door(behind), "POST", "/v1/images/edits", content=slow())
    assert (answer.status_code, answer.json()["error"]["code"]) == (408, "upload_timeout")
    assert behind.calls == []


def prefers(method: str = "POST", path: str = "/v1/images/edits", **more: Any) -> str:
    behind = Behind("answer")
    ask(door(behind), method, path, **more)
    return behind.calls[0].prefer


def test_a_picture_is_known_by_its_bytes_alone() -> None:
    one, other = picture(), picture(80, 80)
    first = prefers(files={"image": one}, data=TEXTS)
    assert first.startswith("image:")
    assert first == prefers(files={"image[]": ("b.png", one)}, data={"prompt": "another"})
    assert first == prefers(path="/v1/masks", files={"image": one}, data=TEXTS)
    assert first != prefers(files={"image": other}, data=TEXTS)
    repeated = prefers(files={"image": one}, data=TEXTS, headers={"Idempotency-Key": "a"})
    assert repeated == first.replace("image:", "keep:")


@pytest.mark.parametrize(
    ("path", "more", "wanted"),
    [
        ("/v1/jobs/abc123-0123456789ab/events", {}, "server:abc123"),
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
def test_others_go_anywhere(path: str, more: dict[str, Any], wanted: str) -> None:
    assert prefers(path=path, **more) == wanted


def test_an_answer_is_played_as_it_was_given() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        told = f"{request.method} {request.url.path} {request.query_params['a']} "
        told += f"{request.state.owner} {(await request.body()).decode()}"
        await PlainTextResponse(told)(scope, receive, send)

    call = Call("POST", "/there", b"a=1", (), b"body", "id", "alice")

    async def collect() -> list[list[Message]]:
        return [messages async for messages in play(app, call)]

    (messages,) = asyncio.run(collect())
    assert messages[1]["body"] == b"POST /there 1 alice body"


def _run(app: ASGIApp, then: Callable[[Any], Awaitable[None]]) -> None:
    call = Call("GET", "/", b"", (), b"", "id", None)

    async def whole() -> None:
        await then(play(app, call))

    asyncio.run(whole())


def test_to_stop_listening_is_to_leave() -> None:
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "http.request"
        await send(start())
        seen.append((await receive())["type"])

    async def leave(answer: Any) -> None:
        await anext(answer)
        await answer.aclose()

    _run(app, leave)
    assert seen == ["http.disconnect"]


def test_who_does_not_notice_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffedit.server.gateway.LEAVE_SECONDS", 0.05)
    ended = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    async def leave(answer: Any) -> None:
        await anext(answer)
        await answer.aclose()
        await asyncio.sleep(0)

    _run(app, leave)
    assert ended == [True]


def test_an_application_that_fails_is_not_hidden() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("a bug")

    async def listen(answer: Any) -> None:
        with pytest.raises(RuntimeError, match="a bug"):
            await anext(answer)

    _run(app, listen)


def test_figures_of_several_are_told_apart() -> None:
    one = '# HELP a_total Things.\n# TYPE a_total counter\na_total{kind="x"} 1.0\n'
    text = merged({"r1": one, "r2": one.replace("1.0", "2.0")})
    assert 'a_total{kind="x",replica="r1"} 1.0' in text
    assert 'a_total{kind="x",replica="r2"} 2.0' in text
    assert text.count("# TYPE a_total counter") == 1
