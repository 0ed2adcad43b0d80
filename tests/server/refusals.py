"""Bad requests, and checks of every error response."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from tests.server.helpers import FAST, image_bytes

Response = Any
ALLOWED_SLASHES = ("multipart/form-data", "application/json", "text/plain", "/docs")
"""Texts with a slash that error messages may contain; paths of files they may not."""


def post(
    client: TestClient, image: bytes | None = None, name: str = "a.png", **data: Any
) -> Response:
    files = {"image": (name, image_bytes() if image is None else image)}
    return client.post("/v1/images/edits", files=files, data={**FAST, **data})


def error_message(response: Response, status: int, code: str, param: str | None = None) -> str:
    """Check an error response and return its message: a sentence without paths or traces."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["code"] == code, response.text
    if param is not None:
        assert error["param"] == param
    message: str = error["message"]
    assert message[0].isupper() or message.split()[0].replace("_", "").isalpha()
    assert message.endswith((".", "?"))
    assert "Traceback" not in message
    for text in ALLOWED_SLASHES:
        message = message.replace(text, "")
    assert "/" not in message
    assert response.headers["x-request-id"]
    return str(error["message"])


@contextmanager
def server_keeps_working(client: TestClient) -> Iterator[None]:
    """After the block a valid request succeeds, and no temporary file is left."""
    folder = Path(tempfile.gettempdir())
    before = set(folder.glob("tmp*"))
    yield
    assert post(client).status_code == 200
    assert not {p for p in folder.glob("tmp*") if p.is_file()} - before
