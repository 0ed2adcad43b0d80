"""Memory of jobs and of large responses, and the longest block of the event loop."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from fastapi.testclient import TestClient
from starlette.requests import ClientDisconnect
from starlette.types import Message

from diffedit.server import Settings
from diffedit.server.admission import check_memory, predicted_bytes
from diffedit.server.errors import ApiError
from diffedit.server.forms import EditForm
from diffedit.server.json_body import PIECE_BYTES, SMALL_BYTES, Base64, StreamedJson, encode
from engine.errors import out_of_memory
from tests.server.conftest import MakeServer
from tests.server.helpers import FAST, SLOW, image_bytes

MakeClient = Callable[..., TestClient]


# -- admission -------------------------------------------------------------------------------------


def form(pixels: int = 1_000_000, n: int = 1) -> EditForm:
    return EditForm(b"x" * 1000, None, {}, n=n, image_size=(1000, pixels // 1000))


def test_predicted_bytes_grow_with_pixels_and_results() -> None:
    one, ten = predicted_bytes(form()), predicted_bytes(form(n=10))
    assert 4_000_000 <= (ten - one) / 9 <= 8_000_000, "a PNG of noise and its mask"
    several = replace(form(), parameters={"edits": [{"prompt": "a"}] * 16})
    assert predicted_bytes(several) - one == 16 * 1_000_000, "a mask for each edit"
    assert predicted_bytes(form(2_000_000)) == pytest.approx(2 * one, rel=0.01)
    largest = EditForm(b"x" * 20_000_000, None, {}, n=10, image_size=(4000, 4000))
    assert predicted_bytes(largest) < Settings().max_job_bytes


def test_memory_is_refused_like_work() -> None:
    needed = predicted_bytes(form())
    settings = Settings(max_job_bytes=2 * needed)
    assert check_memory(form(), needed, 8.0, settings) == needed
    with pytest.raises(ApiError) as full:
        check_memory(form(), needed + 1, 8.0, settings)
    assert (full.value.status, full.value.code) == (429, "queue_full")
    assert full.value.headers["Retry-After"] == "4"
    with pytest.raises(ApiError) as never:
        check_memory(form(n=10), 0, 0.0, settings)
    assert (never.value.status, never.value.param) == (413, "n")


def test_server_refuses_jobs_over_its_memory_and_says_how_much_it_holds(
    make_server: MakeServer,
) -> None:
    one = predicted_bytes(EditForm(image_bytes(), None, {}, image_size=(96, 72)))
    server = make_server(call_seconds=0.01, max_job_bytes=int(2.5 * one))
    jobs = [server.post("/v1/jobs", SLOW) for _ in range(3)]
    assert [job.status_code for job in jobs] == [202, 202, 429]
    assert jobs[2].json()["error"]["code"] == "queue_full"
    assert int(jobs[2].headers["retry-after"]) >= 1
    assert server.metric("diffedit_job_bytes") == 2 * one
    for job in jobs[:2]:
        server.delete(f"/v1/jobs/{job.json()['id']}")
    assert server.metric("diffedit_job_bytes") == 0
    assert server.post("/v1/images/edits", FAST).status_code == 200


# -- responses -------------------------------------------------------------------------------------


SIZES = [0, 1, 2, 3, SMALL_BYTES, PIECE_BYTES - 1, PIECE_BYTES, 2 * PIECE_BYTES + 1]


@pytest.mark.parametrize("size", SIZES)
def test_streamed_json_is_the_json_of_its_body(size: int) -> None:
    data = bytes(i % 251 for i in range(251)) * (size // 251 + 1)
    data = data[:size]
    text = 'a "quoted" text, é, \u2028'
    body = {"text": text, "images": [{"b64": Base64(data)}, {"b64": Base64(b"xyz")}], "n": 1.5}
    expected = {
        "text": text,
        "images": [{"b64": base64.b64encode(data).decode()}, {"b64": "eHl6"}],
        "n": 1.5,
    }
    assert json.loads(b"".join(encode(body))) == expected
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    response = StreamedJson(body, {"X-A": "b"}, send_seconds=1.0)
    asyncio.run(response({}, None, send))  # type: ignore[arg-type]
    content = b"".join(message.get("body", b"") for message in sent)
    assert json.loads(content) == expected
    headers = dict(sent[0]["headers"])
    assert int(headers[b"content-length"]) == len(content)
    assert max(len(message.get("body", b"")) for message in sent) <= 4 * PIECE_BYTES // 3


def test_small_parts_are_sent_together() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    body = {"data": [{"b64": Base64(b"x" * 90_000), "mask": Base64(b"y" * 999)} for _ in range(10)]}
    response = StreamedJson(body, {}, send_seconds=1.0)
    asyncio.run(response({}, None, send))  # type: ignore[arg-type]
    pieces = [message["body"] for message in sent[1:]]
    assert [message["more_body"] for message in sent[1:]] == [True] * (len(pieces) - 1) + [False]
    assert len(pieces) == 4 and max(map(len, pieces)) < SMALL_BYTES + 121_000
    assert b"".join(pieces) == b"".join(encode(body))


def test_client_that_does_not_read_is_disconnected() -> None:
    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            await asyncio.sleep(3600)

    response = StreamedJson({"a": Base64(b"x" * 100)}, {}, send_seconds=0.05)
    with pytest.raises(ClientDisconnect):
        asyncio.run(response({}, None, send))  # type: ignore[arg-type]


async def longest_block(work: Any) -> float:
    """Seconds for which the event loop did nothing else at a time."""
    longest, done = 0.0, False

    async def beat() -> None:
        nonlocal longest
        while not done:
            began = time.perf_counter()
            await asyncio.sleep(0.0005)
            longest = max(longest, time.perf_counter() - began)

    beating = asyncio.create_task(beat())
    await asyncio.sleep(0.01)
    await work
    done = True
    await beating
    return longest


def test_large_response_does_not_block_the_event_loop() -> None:
    """Measured against the same response encoded at once on the same machine."""
    data = bytes(48_000_000)

    async def send(message: Message) -> None:
        await asyncio.sleep(0)

    async def at_once() -> None:
        json.dumps({"b64_json": base64.b64encode(data).decode()}).encode()

    async def streamed_once() -> None:
        response = StreamedJson({"b64_json": Base64(data)}, {}, send_seconds=60.0)
        await response({}, None, send)  # type: ignore[arg-type]

    # The best of three: on a busy machine other processes block the loop, too.
    streamed = min(asyncio.run(longest_block(streamed_once())) for _ in range(3))
    whole = asyncio.run(longest_block(at_once()))
    print(f"longest block: {1000 * streamed:.1f} ms streamed, {1000 * whole:.1f} ms at once")
    assert streamed < whole / 2


# -- out of memory ---------------------------------------------------------------------------------


def test_out_of_memory_is_logged_counted_and_survived(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from diffedit.server import image_codec

    client = make_client(fault="oom")

    def edit(prompt: str = FAST["prompt"]) -> Any:
        files = {"image": ("a.png", image_bytes())}
        return client.post("/v1/images/edits", files=files, data={**FAST, "prompt": prompt})

    def count(memory: str) -> float:
        name = f'diffedit_out_of_memory_total{{memory="{memory}"}} '
        lines = client.get("/metrics").text.splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith(name))

    def no_memory(*_: Any, **__: Any) -> Any:
        raise MemoryError

    assert (count("host"), count("device")) == (0, 0)
    responses = [edit("poison")]
    for name in ("encode_edit", "decode_form", "check_headers"):
        with monkeypatch.context() as patch:
            patch.setattr(image_codec, name, no_memory)
            responses.append(edit())
    for response in responses:
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "out_of_memory"
        assert int(response.headers["retry-after"]) >= 1
    assert (count("host"), count("device")) == (3, 1)
    logged = [
        record for record in caplog.records if record.exc_info and record.levelname == "ERROR"
    ]
    assert len(logged) == 4
    assert all(out_of_memory(r.exc_info[1]) for r in logged if r.exc_info and r.exc_info[1])
    assert edit().status_code == 200
    assert client.get("/readyz").status_code == 200
