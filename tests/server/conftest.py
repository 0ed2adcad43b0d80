"""A server on fake networks in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the server extra")

from fastapi.testclient import TestClient

from demo.fake_server import open_fake
from diffedit.server import Settings, create_app

MakeClient = Callable[..., TestClient]


@pytest.fixture(scope="session")
def make_client(tiny: Path) -> Iterator[MakeClient]:
    """A client of a new server; `call_seconds` and `kind` as in `open_fake`, limits by name."""
    opened: list[TestClient] = []

    def make(*, call_seconds: float = 0.0, kind: str | None = None, **limits: Any) -> TestClient:
        app = create_app(
            lambda: open_fake(tiny, call_seconds=call_seconds, kind=kind),
            "tiny",
            Settings(**{"result_seconds": 60.0, **limits}),
        )
        client = TestClient(app, base_url="http://localhost", raise_server_exceptions=False)
        client.__enter__()
        opened.append(client)
        while client.get("/readyz").status_code != 200:
            time.sleep(0.01)
        return client

    yield make
    for client in opened:
        client.__exit__(None, None, None)


@pytest.fixture(scope="session")
def client(make_client: MakeClient) -> TestClient:
    """A client of a server with the usual limits, whose networks take no time."""
    return make_client()
