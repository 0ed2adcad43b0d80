"""ApiKeys, names, origins and headers: closed by default."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from diffedit.server.auth import OPEN, ApiKeys
from diffedit.server.run import check_binding
from diffedit.server.settings import Settings
from engine.errors import DiffEditError
from tests.server.kit import FAST, picture

KEY = "correct-horse-battery-staple"
MakeClient = Callable[..., TestClient]


@pytest.fixture(scope="module")
def locked(make_client: MakeClient, tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(f"# who\nalice {KEY}\nbob another-key-of-some-length\n")
    return make_client(api_keys=file)


def test_every_route_asks_for_the_key_but_the_few(locked: TestClient) -> None:
    """Walks the application's own routes, so that a new one cannot be forgotten."""
    walked = set()
    for route in _routes(locked):
        path = route.path.replace("{job_id}", "x")
        for method in route.methods - {"HEAD"}:
            answer = locked.request(method, path)
            walked.add(path)
            if path in OPEN:
                assert answer.status_code in (200, 503), path
            else:
                assert answer.status_code == 401, path
                assert answer.headers["www-authenticate"] == "Bearer"
                assert answer.json()["error"]["code"] == "invalid_api_key"
    assert {"/v1/images/edits", "/metrics", "/v1/jobs/x/image", "/"} <= walked
    described = locked.get("/openapi.json").json()["paths"]
    assert {p.replace("{job_id}", "x") for p in described} <= walked


def _routes(client: TestClient) -> list[Any]:
    from starlette.routing import Route

    def walk(routes: list[Any]) -> list[Any]:
        found: list[Any] = []
        for route in routes:
            if isinstance(route, Route):
                found.append(route)
            else:
                inner = getattr(route, "original_router", route)
                found += walk(list(getattr(inner, "routes", [])))
        return found

    return walk(list(client.app.routes))  # type: ignore[attr-defined]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    "headers",
    [
        bearer("wrong"),
        bearer(""),
        bearer(KEY[:-1]),
        bearer(KEY + "x"),
        {"Authorization": KEY},
        {"Authorization": f"Basic {KEY}"},
    ],
)
def test_wrong_keys(locked: TestClient, headers: dict[str, str]) -> None:
    assert locked.get("/v1/models", headers=headers).status_code == 401
    assert locked.get(f"/v1/models?key={KEY}").status_code == 401


def test_right_keys(locked: TestClient) -> None:
    assert locked.get("/v1/models", headers=bearer(KEY)).status_code == 200
    answer = locked.post(
        "/v1/images/edits",
        files={"image": ("a.png", picture())},
        data=FAST,
        headers=bearer("another-key-of-some-length"),
    )
    assert answer.status_code == 200


def test_jobs_belong_to_their_key(locked: TestClient) -> None:
    """Another key sees no job, and its Idempotency-Key is its own."""
    ids = []
    for key in (KEY, "another-key-of-some-length"):
        answer = locked.post(
            "/v1/jobs",
            files={"image": ("a.png", picture())},
            data=FAST,
            headers={**bearer(key), "Idempotency-Key": "same"},
        )
        ids.append(answer.json()["id"])
    assert ids[0] != ids[1]
    assert locked.get(f"/v1/jobs/{ids[0]}", headers=bearer(KEY)).status_code == 200
    for path in ("", "/events", "/image", "/mask"):
        answer = locked.get(f"/v1/jobs/{ids[1]}{path}", headers=bearer(KEY))
        assert answer.status_code == 404
    assert locked.delete(f"/v1/jobs/{ids[1]}", headers=bearer(KEY)).status_code == 404


def test_figures_keep_no_words_of_strangers(client: TestClient) -> None:
    client.request("FOOBAR", "/livez")
    client.get("/secret-path")
    text = client.get("/metrics").text
    assert "FOOBAR" not in text
    assert "secret-path" not in text
    assert 'method="other"' in text


@pytest.mark.parametrize(
    ("text", "why"),
    [("", "no key"), ("alice", "Line 1"), ("alice short", "Line 1"), ("# only\n", "no key")],
)
def test_key_files_that_are_none(tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(DiffEditError, match=why):
        ApiKeys.read(file)
    with pytest.raises(DiffEditError, match="cannot be read"):
        ApiKeys.read(tmp_path / "none")


def test_foreign_names_and_pages_are_refused(client: TestClient) -> None:
    assert client.get("/livez", headers={"Host": "evil.example"}).status_code == 403
    foreign = client.get("/livez", headers={"Origin": "https://evil.example"})
    assert foreign.json()["error"]["code"] == "foreign_origin"
    assert client.get("/livez", headers={"Origin": "null"}).status_code == 403
    assert client.get("/livez", headers={"Origin": "http://localhost"}).status_code == 200


def test_every_answer_carries_its_headers(client: TestClient) -> None:
    for path in ("/", "/livez", "/none", "/v1/models"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert len(headers["x-request-id"]) == 16
    given = client.get("/livez", headers={"X-Request-Id": "my-id.1"}).headers["x-request-id"]
    assert given == "my-id.1"
    odd = client.get("/livez", headers={"X-Request-Id": "a b<script>"}).headers["x-request-id"]
    assert odd != "a b<script>"


def test_other_machines_need_keys(tmp_path: Path) -> None:
    with pytest.raises(DiffEditError, match="--api-keys"):
        check_binding(Settings(host="0.0.0.0"))
    with pytest.raises(DiffEditError, match="--allowed-host"):
        check_binding(Settings(host="0.0.0.0", insecure=True))
    check_binding(Settings(host="0.0.0.0", insecure=True, allowed_hosts=("edits.example.org",)))
    check_binding(Settings(host="127.0.0.1"))
    check_binding(Settings(host="0.0.0.0", api_keys=tmp_path / "keys"))
