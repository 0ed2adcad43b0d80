"""The gateway, with fake replicas that respond, die or stall."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2 as httpx
import pytest

pytest.importorskip("fastapi", reason="needs the server extra")

from diffedit.server.auth import ApiKeys
from diffedit.server.gateway import ReplicaLost
from diffedit.server.metrics import merge_metrics
from tests.server.fake_replicas import NEVER, FakeReplicas, make_gateway, post_edit, send

KEY = "k" * 20


def error_code(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


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


def test_merged_metrics_have_a_replica_label() -> None:
    text = '# HELP a_total Things.\n# TYPE a_total counter\na_total{kind="x"} 1.0\n'
    merged = merge_metrics({"r1": text, "r2": text.replace("1.0", "2.0")})
    assert 'a_total{kind="x",replica="r1"} 1.0' in merged
    assert 'a_total{kind="x",replica="r2"} 2.0' in merged
    assert merged.count("# TYPE a_total counter") == 1
