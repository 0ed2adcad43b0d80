"""Deadlines, and unloading of an idle model."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from fastapi.testclient import TestClient

from tests.server.helpers import FAST, image_bytes, wait_until

MakeClient = Callable[..., TestClient]


def edit(client: TestClient, **headers: str) -> Any:
    files = {"image": ("a.png", image_bytes())}
    return client.post("/v1/images/edits", files=files, data=FAST, headers=headers)


def test_edit_that_exceeds_its_deadline_is_stopped(make_client: MakeClient) -> None:
    """The calls become slower than they were when they were measured."""
    client = make_client()
    pipeline = client.app.state.engine_host.pipeline  # type: ignore[attr-defined]
    backends = list(pipeline.networks.backends.values())
    original_faults = [backend._fault for backend in backends]

    def slow_call(net: str, batch: Any, output: Any) -> None:
        time.sleep(0.3)

    for backend in backends:
        backend._fault = slow_call
    late = edit(client, **{"X-Request-Timeout": "1"})  # ten calls take 3 s
    for backend, fault in zip(backends, original_faults, strict=True):
        backend._fault = fault
    assert (late.status_code, late.json()["error"]["code"]) == (503, "deadline_exceeded")
    assert edit(client).status_code == 200


def test_idle_model_is_unloaded_and_loaded_again(make_client: MakeClient) -> None:
    client = make_client(idle_unload_seconds=0.2)
    first = edit(client)
    wait_until(lambda: not client.get("/readyz").json()["loaded"], "the model is unloaded")
    assert "diffedit_loaded 0.0" in client.get("/metrics").text
    second = edit(client)
    assert second.json()["data"][0]["b64_json"] == first.json()["data"][0]["b64_json"]
