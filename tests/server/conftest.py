"""Servers on fake networks in the test process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the server extra")

from fastapi.testclient import TestClient

from demo.fake_server import open_fake
from diffedit.server import Settings, create_app
from tests.server.helpers import wait_until

MakeClient = Callable[..., TestClient]


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
