"""API keys over HTTP: they take turns, have quotas, and are read again while the server runs."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the server extra")

from fastapi.testclient import TestClient

from diffedit.pipeline import DiffEditPipeline
from diffedit.server import failed_keys
from tests.server.helpers import FAST, SLOW, image_bytes, wait_until

MakeClient = Callable[..., TestClient]
KEYS = {name: f"the-key-of-{name}-of-some-length" for name in ("alice", "bob", "carol")}
EDITS, JOBS = "/v1/images/edits", "/v1/jobs"


def write_keys(file: Path, *names: str) -> None:
    """Replace the file atomically."""
    new = file.with_name("new")
    new.write_text("".join(f"{name} {KEYS[name]}\n" for name in names))
    os.replace(new, file)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    write_keys(tmp_path / "keys", "alice", "bob")
    return tmp_path / "keys"


def submit(client: TestClient, name: str, form: dict[str, str], path: str = JOBS) -> Any:
    files = {"image": ("a.png", image_bytes())}
    headers = {"Authorization": f"Bearer {KEYS[name]}"}
    return client.post(path, files=files, data=form, headers=headers)


def state(client: TestClient, name: str, job_id: str) -> Any:
    headers = {"Authorization": f"Bearer {KEYS[name]}"}
    return client.get(f"{JOBS}/{job_id}", headers=headers).json()


def test_flood_of_one_key_does_not_delay_another(make_client: MakeClient, keys: Path) -> None:
    client = make_client(
        call_seconds=0.01, api_keys=keys, max_active=2, max_waiting=4, max_queue_seconds=1e6
    )
    flood = [submit(client, "alice", SLOW) for _ in range(8)]
    assert [response.status_code for response in flood] == [202] * 5 + [429] * 3
    edit = submit(client, "bob", FAST, EDITS)
    assert edit.status_code == 200, edit.text
    jobs = [response.json()["id"] for response in flood[:5]]
    states = [state(client, "alice", one) for one in jobs]
    assert [one["state"] for one in states] == ["running"] + ["queued"] * 4
    assert [one["position"] for one in states] == [0, 1, 2, 3, 4]
    waiting = submit(client, "bob", SLOW).json()["id"]
    wait_until(lambda: state(client, "bob", waiting)["state"] == "running", "it has a slot")
    for name, one in [*(("alice", one) for one in jobs), ("bob", waiting)]:
        client.delete(f"{JOBS}/{one}", headers={"Authorization": f"Bearer {KEYS[name]}"})


def test_backlog_of_one_key_does_not_refuse_another(make_client: MakeClient, keys: Path) -> None:
    client = make_client(call_seconds=0.01, api_keys=keys, max_queue_seconds=1.0)
    first = submit(client, "alice", SLOW)
    refused = submit(client, "alice", SLOW)
    assert (first.status_code, refused.status_code) == (202, 429)
    assert submit(client, "bob", FAST, EDITS).status_code == 200
    headers = {"Authorization": f"Bearer {KEYS['alice']}"}
    client.delete(f"{JOBS}/{first.json()['id']}", headers=headers)


def test_edits_of_a_key_are_one_group(
    make_client: MakeClient, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups: list[str | None] = []
    submit_edit = DiffEditPipeline.submit

    def watched(self: DiffEditPipeline, request: Any, **options: Any) -> Any:
        groups.append(options.get("group"))
        return submit_edit(self, request, **options)

    monkeypatch.setattr(DiffEditPipeline, "submit", watched)
    client = make_client(api_keys=keys)
    for name in ("alice", "bob", "bob"):
        assert submit(client, name, FAST, EDITS).status_code == 200
    assert groups == ["alice", "bob", "bob"]


def test_only_key_has_every_slot(make_client: MakeClient, keys: Path) -> None:
    write_keys(keys, "alice")
    client = make_client(call_seconds=0.01, api_keys=keys, max_active=2, max_queue_seconds=1e6)
    jobs = [submit(client, "alice", SLOW).json()["id"] for _ in range(2)]
    wait_until(
        lambda: all(state(client, "alice", one)["state"] == "running" for one in jobs), "both run"
    )
    for one in jobs:
        client.delete(f"{JOBS}/{one}", headers={"Authorization": f"Bearer {KEYS['alice']}"})


def test_quota_over_http(make_client: MakeClient, keys: Path) -> None:
    client = make_client(api_keys=keys, key_edits_per_minute=2)
    assert submit(client, "alice", {**FAST, "n": "2"}, EDITS).status_code == 200
    refused = submit(client, "alice", FAST, EDITS)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "quota_exceeded")
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert submit(client, "bob", FAST, EDITS).status_code == 200
    too_many = submit(client, "bob", {**FAST, "n": "3"}, EDITS)
    assert (too_many.status_code, too_many.json()["error"]["param"]) == (400, "n")
    metrics = client.get("/metrics", headers={"Authorization": f"Bearer {KEYS['bob']}"}).text
    assert 'diffedit_jobs_total{event="refused"} 1.0' in metrics


# -- wrong keys ------------------------------------------------------------------------------------


def test_clients_that_try_keys_are_slowed_down(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr("diffedit.server.failed_keys.asyncio.sleep", sleep)
    monkeypatch.setattr(failed_keys, "MAX_ADDRESSES", 2)

    async def fail(address: str, count: int) -> int:
        before = len(waited)
        for _ in range(count):
            await failures.slow_down(address)
        return len(waited) - before

    async def run() -> None:
        assert await fail("a", failed_keys.FREE_FAILURES + 2) == 2
        assert await fail("b", failed_keys.FREE_FAILURES) == 0
        assert await fail("c", 1) == 0  # the oldest address is forgotten
        assert await fail("a", 1) == 0

    failures = failed_keys.FailedKeys()
    asyncio.run(run())


def test_log_names_the_key_and_only_wrong_keys_wait(
    make_client: MakeClient,
    keys: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = make_client(api_keys=keys)
    slowed: list[str] = []

    async def slow_down(self: object, address: str) -> None:
        slowed.append(address)

    monkeypatch.setattr(failed_keys.FailedKeys, "slow_down", slow_down)
    caplog.set_level(logging.INFO, "diffedit.server.access_log")
    assert [status(client, name) for name in KEYS] == [200, 200, 401]
    assert client.get("/v1/models").status_code == 401  # no key: nothing was tried
    assert len(slowed) == 1
    lines = [r for r in caplog.records if r.name == "diffedit.server.access_log"]
    assert [getattr(r, "key", None) for r in lines] == ["alice", "bob", None, None]
    assert lines[0].getMessage().endswith(", alice)")
    assert not any(key in caplog.text for key in KEYS.values())


# -- reading the keys again ------------------------------------------------------------------------


def status(client: TestClient, name: str) -> int:
    return client.get("/v1/models", headers={"Authorization": f"Bearer {KEYS[name]}"}).status_code


def test_changed_key_file_is_read_again(make_client: MakeClient, keys: Path) -> None:
    client = make_client(api_keys=keys)
    assert [status(client, name) for name in KEYS] == [200, 200, 401]
    write_keys(keys, "alice", "carol")
    wait_until(lambda: status(client, "carol") == 200, "the new key is known", 20)
    assert [status(client, name) for name in KEYS] == [200, 401, 200]


@pytest.mark.parametrize(
    "content",
    [
        "alice short\n",
        *(pytest.param(one, marks=pytest.mark.slow) for one in ("", "\xff\xfe", None)),
    ],
)
def test_bad_key_file_changes_nothing_and_is_logged_once(
    make_client: MakeClient, keys: Path, caplog: pytest.LogCaptureFixture, content: str | None
) -> None:
    client = make_client(api_keys=keys)
    if content is None:
        keys.unlink()
    else:
        keys.write_bytes(content.encode("latin-1"))

    def errors() -> list[str]:
        named = [r for r in caplog.records if r.name == "diffedit.server.key_file"]
        return [r.getMessage() for r in named if r.levelno == logging.ERROR]

    wait_until(errors, "the error is logged", 20)
    assert [status(client, name) for name in KEYS] == [200, 200, 401]
    assert len(errors()) == 1
    assert "the old ones stay" in errors()[0]
    assert not any(key in errors()[0] for key in KEYS.values())
    write_keys(keys, "carol")
    wait_until(lambda: status(client, "carol") == 200, "the mended file is read", 20)
    assert status(client, "alice") == 401
