"""API keys, host names, origins and response headers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from starlette.routing import Route

from diffedit.server.auth import PUBLIC_PATHS, ApiKeys
from diffedit.server.run import check_binding
from diffedit.server.settings import Settings
from engine.errors import DiffEditError
from tests.server.helpers import FAST, image_bytes

KEY, OTHER_KEY = "correct-horse-battery-staple", "another-key-of-some-length"
MakeClient = Callable[..., TestClient]


@pytest.fixture(scope="module")
def secured(make_client: MakeClient, tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(f"# clients\nalice {KEY}\nbob {OTHER_KEY}\n")
    return make_client(api_keys=file)


def routes(client: TestClient) -> list[Route]:
    """Every route of the application, those of included routers too."""

    def walk(entries: list[Any]) -> list[Route]:
        result: list[Route] = []
        for entry in entries:
            if isinstance(entry, Route):
                result.append(entry)
            else:
                router = getattr(entry, "original_router", entry)
                result += walk(list(getattr(router, "routes", [])))
        return result

    return walk(list(client.app.routes))  # type: ignore[attr-defined]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_every_route_needs_a_key_except_the_public_ones(secured: TestClient) -> None:
    paths = set()
    for route in routes(secured):
        path = route.path.replace("{job_id}", "x")
        for method in (route.methods or set()) - {"HEAD"}:
            response = secured.request(method, path)
            paths.add(path)
            if path in PUBLIC_PATHS:
                assert response.status_code == 200, path
            else:
                assert response.status_code == 401, path
                assert response.headers["www-authenticate"] == "Bearer"
                assert response.json()["error"]["code"] == "invalid_api_key"
    assert {"/v1/images/edits", "/metrics", "/v1/jobs/x/image", "/"} <= paths
    documented = secured.get("/openapi.json").json()["paths"]
    assert {path.replace("{job_id}", "x") for path in documented} <= paths


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
def test_wrong_keys_are_refused(secured: TestClient, headers: dict[str, str]) -> None:
    assert secured.get("/v1/models", headers=headers).status_code == 401
    assert secured.get(f"/v1/models?key={KEY}").status_code == 401


def test_valid_keys_are_accepted(secured: TestClient) -> None:
    assert secured.get("/v1/models", headers=bearer(KEY)).status_code == 200
    response = secured.post(
        "/v1/images/edits",
        files={"image": ("a.png", image_bytes())},
        data=FAST,
        headers=bearer(OTHER_KEY),
    )
    assert response.status_code == 200


def test_jobs_and_idempotency_keys_belong_to_an_api_key(secured: TestClient) -> None:
    ids = []
    for key in (KEY, OTHER_KEY):
        response = secured.post(
            "/v1/jobs",
            files={"image": ("a.png", image_bytes())},
            data=FAST,
            headers={**bearer(key), "Idempotency-Key": "same"},
        )
        ids.append(response.json()["id"])
    assert ids[0] != ids[1]
    assert secured.get(f"/v1/jobs/{ids[0]}", headers=bearer(KEY)).status_code == 200
    for path in ("", "/events", "/image", "/mask"):
        response = secured.get(f"/v1/jobs/{ids[1]}{path}", headers=bearer(KEY))
        assert response.status_code == 404
    assert secured.delete(f"/v1/jobs/{ids[1]}", headers=bearer(KEY)).status_code == 404


def test_metrics_contain_no_text_from_clients(client: TestClient) -> None:
    client.request("FOOBAR", "/livez")
    client.get("/secret-path")
    text = client.get("/metrics").text
    assert "FOOBAR" not in text
    assert "secret-path" not in text
    assert 'method="other"' in text


def test_metrics_name_every_public_path(client: TestClient) -> None:
    for path in PUBLIC_PATHS:
        assert client.get(path).status_code == client.head(path).status_code == 200, path
        counted = f'method="GET",route="{path}",status="200"'
        assert counted in client.get("/metrics").text, path
    assert 'route="other",status="200"' not in client.get("/metrics").text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "contains no key"),
        ("alice", "Line 1"),
        ("alice short", "Line 1"),
        ("# only\n", "contains no key"),
    ],
)
def test_malformed_key_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(DiffEditError, match=message):
        ApiKeys.read(file)


def test_missing_key_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DiffEditError, match="cannot be read"):
        ApiKeys.read(tmp_path / "none")


def test_unknown_hosts_and_foreign_origins_are_refused(client: TestClient) -> None:
    assert client.get("/livez", headers={"Host": "evil.example"}).status_code == 403
    foreign = client.get("/livez", headers={"Origin": "https://evil.example"})
    assert (foreign.status_code, foreign.json()["error"]["code"]) == (403, "foreign_origin")
    assert client.get("/livez", headers={"Origin": "null"}).status_code == 403
    assert client.get("/livez", headers={"Origin": "http://localhost"}).status_code == 200


def test_every_response_has_security_headers(client: TestClient) -> None:
    for path in ("/", "/livez", "/none", "/v1/models"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert len(headers["x-request-id"]) == 16


def test_request_id_of_the_client_is_kept_if_it_is_a_word(client: TestClient) -> None:
    def request_id(value: str) -> str:
        return client.get("/livez", headers={"X-Request-Id": value}).headers["x-request-id"]

    assert request_id("my-id.1") == "my-id.1"
    assert len(request_id("a b<script>")) == 16


def test_binding_beyond_loopback_needs_keys_or_hosts(tmp_path: Path) -> None:
    with pytest.raises(DiffEditError, match="--api-keys"):
        check_binding(Settings(host="0.0.0.0"))
    with pytest.raises(DiffEditError, match="--allowed-host"):
        check_binding(Settings(host="0.0.0.0", insecure=True))
    check_binding(Settings(host="0.0.0.0", insecure=True, allowed_hosts=("edits.example.org",)))
    check_binding(Settings(host="127.0.0.1"))
    check_binding(Settings(host="0.0.0.0", api_keys=tmp_path / "keys"))
