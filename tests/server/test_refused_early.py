"""Requests that are refused before a job is created, and what the OpenAPI document says of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the server extra")

from fastapi.testclient import TestClient

from tests.server.helpers import FAST, image_bytes


def post(client: TestClient, path: str, image: bytes | None = None, **more: Any) -> Any:
    files = {"image": ("a.png", image_bytes() if image is None else image)}
    return client.post(path, files=files, **{"data": FAST, **more})


@pytest.mark.parametrize("size", ["512", "auto*", ""])
def test_invalid_size_is_refused_before_the_job_is_created(client: TestClient, size: str) -> None:
    response = post(client, "/v1/jobs", data={**FAST, "size": size})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "size")


@pytest.mark.parametrize(
    ("timeout", "status"), [("99999999999999999999e-18", 200), ("1_0", 400), ("9" * 50, 400)]
)
def test_request_timeout_is_parsed_strictly(client: TestClient, timeout: str, status: int) -> None:
    response = post(client, "/v1/images/edits", headers={"X-Request-Timeout": timeout})
    assert response.status_code == status, response.text


def test_streams_and_authentication_errors_are_documented(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    edit = paths["/v1/images/edits"]["post"]["responses"]
    assert set(edit["200"]["content"]) == {"application/json", "text/event-stream"}
    operations = [operation for path in paths.values() for operation in path.values()]
    assert all({"401", "403", "405"} <= set(o["responses"]) for o in operations)
    assert "ValidationError" not in json.dumps(paths), "FastAPI's own error schema"


@pytest.mark.parametrize(
    ("path", "fields"), [("/v1/jobs", {}), ("/v1/images/edits", {"stream": "true"})]
)
def test_invalid_image_is_refused_before_the_job_is_created(
    client: TestClient, path: str, fields: dict[str, str]
) -> None:
    response = post(client, path, b"not an image", data={**FAST, **fields})
    assert response.status_code == 415
    assert response.json()["error"]["code"] == "unsupported_image"


def test_long_idempotency_key_is_refused(client: TestClient) -> None:
    response = post(client, "/v1/jobs", headers={"Idempotency-Key": "k" * 257})
    assert response.status_code == 400
