"""Slow uploads delay neither probes nor quick uploads, with and without the gateway."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager

import httpx2 as httpx
import pytest
from starlette.types import Message

from diffedit.server import Settings
from diffedit.server.uploads import Uploads
from tests.server.conftest import MakeServer
from tests.server.fake_replicas import FakeReplicas, make_gateway
from tests.server.helpers import FAST, RunningServer, wait_until

SLOW_HEAD = (
    b"POST /v1/images/edits HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000\r\n"
    b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
)
QUICK_SECONDS = 10.0
"""Far below `upload_seconds` of these servers."""


@contextmanager
def slow_uploads(server: RunningServer, count: int) -> Iterator[list[socket.socket]]:
    """Bodies that begin and do not go on."""
    with ExitStack() as stack:
        connections = [stack.enter_context(server.connect()) for _ in range(count)]
        for connection in connections:
            connection.sendall(
                SLOW_HEAD + b"--x\r\nContent-Disposition: form-data; name=image; filename=a\r\n\r\n"
            )
        wait_until(lambda: server.metric("diffedit_uploads") == count, "all have begun")
        yield connections


def test_slow_uploads_do_not_delay_quick_ones(make_server: MakeServer) -> None:
    server = make_server(max_uploads=2, upload_seconds=60.0)
    with slow_uploads(server, 8):
        began = time.monotonic()
        assert server.post("/v1/images/edits", FAST).status_code == 200
        assert server.get("/readyz").status_code == 200
        assert server.get("/v1/models").status_code == 200
        assert time.monotonic() - began < QUICK_SECONDS


def test_slowest_upload_is_refused_when_the_memory_is_used_up(make_server: MakeServer) -> None:
    server = make_server(max_uploads=1, max_body_bytes=10_000_000, upload_seconds=60.0)
    with slow_uploads(server, 2) as (large, small):
        large.sendall(b"a" * 9_500_000)
        wait_until(lambda: server.metric("diffedit_upload_bytes") > 9_500_000, "it has arrived")
        began = time.monotonic()
        image = b"\x89PNG" + b"a" * 900_000  # not an image, but it arrives
        response = server.post("/v1/images/edits", FAST, image)
        assert response.status_code == 415
        assert time.monotonic() - began < QUICK_SECONDS
        assert large.recv(100)[:12] == b"HTTP/1.1 408", "the large one made room"
        assert server.metric("diffedit_uploads") == 1, "the small one goes on"
        small.settimeout(0.2)
        with pytest.raises(TimeoutError):
            small.recv(100)


def test_memory_is_counted_while_a_body_is_read() -> None:
    async def receive() -> Message:
        return {"type": "http.request", "body": b"x" * 60, "more_body": True}

    async def never() -> Message:
        await asyncio.sleep(3600)
        raise AssertionError

    async def read(uploads: Uploads, pieces: int) -> None:
        async with uploads.reading(receive) as counted:
            for _ in range(pieces):
                await counted()
                await asyncio.sleep(0.01)

    async def stall(uploads: Uploads) -> None:
        async with uploads.reading(receive) as counted:
            await counted()
            await never()

    async def run() -> None:
        uploads = Uploads(Settings(max_uploads=1, max_body_bytes=100))
        stalled = asyncio.create_task(stall(uploads))
        await asyncio.sleep(0.05)
        assert uploads.received_bytes == 60
        await asyncio.wait_for(read(uploads, 1), 5)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(stalled), 5)
        assert uploads.received_bytes == 0
        with pytest.raises(TimeoutError):  # alone over the limit
            await read(uploads, 3)

    asyncio.run(run())


# -- behind the gateway ----------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), [("GET", "/livez"), ("GET", "/readyz")])
def test_gateway_answers_probes_behind_slow_uploads(method: str, path: str) -> None:
    replicas = FakeReplicas("respond", "respond")
    app = make_gateway(replicas, max_uploads=1)

    async def slow_body() -> AsyncIterator[bytes]:
        yield b"a"
        await asyncio.sleep(3600)

    async def run() -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            slow = [
                asyncio.create_task(client.post("/v1/images/edits", content=slow_body()))
                for _ in range(4)
            ]
            await asyncio.sleep(0)  # every task begins
            probe = await asyncio.wait_for(client.request(method, path), QUICK_SECONDS)
            assert probe.status_code == 200
            quick = await asyncio.wait_for(
                client.post("/v1/images/edits", content=b"quick"), QUICK_SECONDS
            )
            assert quick.status_code == 200
            for task in slow:
                task.cancel()

    asyncio.run(run())


def test_gateway_does_not_wait_for_the_body_of_a_probe() -> None:
    app = make_gateway(FakeReplicas("respond"))

    async def run() -> None:
        async def endless() -> AsyncIterator[bytes]:
            while True:
                await asyncio.sleep(1)
                yield b"a"

        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            request = client.request("GET", "/readyz", content=endless())
            assert (await asyncio.wait_for(request, QUICK_SECONDS)).status_code == 200

    asyncio.run(run())
