"""Servers on fake networks in the test process."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the server extra")

from fastapi.testclient import TestClient

from demo.fake_server import open_fake
from diffedit.server import Settings, create_app
from diffedit.server.run import Server
from tests.server.helpers import LiveServer, free_port, wait_until

MakeClient = Callable[..., TestClient]
MakeServer = Callable[..., LiveServer]


@pytest.fixture(scope="session")
def make_client(tiny: Path) -> Iterator[MakeClient]:
    """Make a client of a new server; `call_seconds` and `fault` as in `open_fake`, or settings."""
    clients: list[TestClient] = []

    def make(*, call_seconds: float = 0.0, fault: str | None = None, **limits: Any) -> TestClient:
        app = create_app(
            lambda: open_fake(tiny, call_seconds=call_seconds, fault=fault),
            "tiny",
            Settings(**{"result_seconds": 60.0, **limits}),
        )
        client = TestClient(app, base_url="http://localhost", raise_server_exceptions=False)
        client.__enter__()
        clients.append(client)
        wait_until(lambda: client.get("/readyz").status_code == 200, "the server is ready")
        return client

    yield make
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture(scope="session")
def client(make_client: MakeClient) -> TestClient:
    """A client of a server with the default limits and networks that take no time."""
    return make_client()


@pytest.fixture
def make_server(tiny: Path) -> Iterator[MakeServer]:
    """Make a server that listens on a port; arguments as for `make_client`.

    It runs in a thread of this process, so that tests may also look at `server.app.state`.
    """
    running: list[tuple[Server, threading.Thread]] = []

    def make(*, call_seconds: float = 0.0, fault: str | None = None, **limits: Any) -> LiveServer:
        settings = Settings(**{"port": free_port(), "linger_seconds": 0.0, **limits})
        app = create_app(
            lambda: open_fake(tiny, call_seconds=call_seconds, fault=fault), "tiny", settings
        )
        server = Server(app, settings)
        app.state.engine_host.on_failure = lambda: server.on_engine_failure()
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        running.append((server, thread))
        live = LiveServer(app, server, settings.port)
        wait_until(live.ready, "the server is ready")
        return live

    yield make
    for server, thread in running:
        server.force_exit = server.should_exit = True
        thread.join(30)


@pytest.fixture
def nothing_is_lost(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No exception of a task or future is dropped, and no task is left pending."""
    caplog.set_level(logging.ERROR, "asyncio")
    yield
    gc.collect()
    assert [r.getMessage() for r in caplog.records if r.name == "asyncio"] == []
