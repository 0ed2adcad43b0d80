"""Idempotency keys: one job for a key, also for simultaneous requests."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi.testclient import TestClient

from diffedit.server import Settings, idempotency
from diffedit.server.errors import ApiError
from diffedit.server.forms import EditForm
from diffedit.server.idempotency import IdempotencyKeys, form_digest
from diffedit.server.job_store import JobStore
from diffedit.server.jobs import Job
from tests.server.conftest import MakeServer
from tests.server.helpers import FAST, SLOW, image_bytes, wait_until

FORM = EditForm(b"image", None, {"prompt": "a ball"})
NAME = (None, "k")
EDITS, JOBS, MASKS = "/v1/images/edits", "/v1/jobs", "/v1/masks"


def send(client: TestClient, key: str, path: str = EDITS, **fields: str) -> Any:
    files = {"image": ("a.png", image_bytes())}
    headers = {"Idempotency-Key": key}
    return client.post(path, files=files, data={**FAST, **fields}, headers=headers)


def accepted(client: TestClient) -> float:
    name = 'diffedit_jobs_total{event="accepted"}'
    lines = client.get("/metrics").text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(name))


# -- over HTTP -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [EDITS, JOBS, MASKS])
def test_requests_at_the_same_time_create_one_job(client: TestClient, path: str) -> None:
    before = accepted(client)
    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(lambda _: send(client, f"at once {path}", path), range(8)))
    assert {response.status_code for response in responses} == {202 if path == JOBS else 200}
    assert accepted(client) == before + 1
    if path == JOBS:
        assert len({response.json()["id"] for response in responses}) == 1
    else:
        assert len({response.content for response in responses}) == 1


def test_finished_edit_is_answered_again(client: TestClient) -> None:
    first, before = send(client, "again"), accepted(client)
    assert send(client, "again").content == first.content
    assert accepted(client) == before
    streamed = send(client, "streamed", stream="true"), send(client, "streamed", stream="true")
    assert [r.text.count("image_edit.completed") for r in streamed] == [2, 2]
    assert accepted(client) == before + 1


def test_key_belongs_to_one_form_and_one_path(client: TestClient) -> None:
    assert send(client, "form").status_code == 200
    for other in ({"seed": "9"}, {"stream": "true"}, {"path": JOBS}):
        response = send(client, "form", **other)
        assert response.status_code == 422, other
        error = response.json()["error"]
        assert (error["code"], error["param"]) == ("idempotency_key_reused", "Idempotency-Key")
    assert send(client, "form").status_code == 200


def test_key_of_a_refused_request_is_free(client: TestClient) -> None:
    assert send(client, "refused", strength="7").status_code == 400
    assert send(client, "refused").status_code == 200


def test_key_of_a_cancelled_job_is_free(make_server: MakeServer) -> None:
    server = make_server(call_seconds=0.005)
    key: dict[str, Any] = {"Idempotency-Key": "cancelled"}
    first = server.post(JOBS, SLOW, **key).json()["id"]
    assert server.post(JOBS, SLOW, **key).json()["id"] == first
    server.delete(f"{JOBS}/{first}")
    second = server.post(JOBS, FAST, **key)
    assert second.status_code == 202
    assert second.json()["id"] != first


def test_edit_goes_on_for_the_client_that_stays(make_server: MakeServer) -> None:
    """Two clients wait for one edit. The first leaves; the second gets the result."""
    server = make_server(call_seconds=0.02)
    form = {**FAST, "num_inference_steps": "40", "strength": "1"}
    key: dict[str, Any] = {"Idempotency-Key": "shared"}
    with ThreadPoolExecutor(1) as pool:
        with server.open_post(EDITS, form, **key):
            server.wait_for_jobs(1)
            stays = pool.submit(server.post, EDITS, form, **key)
            (job,) = server.app.state.scheduler.active
            wait_until(lambda: job.clients == 2, "both wait")
        assert stays.result().status_code == 200
    assert server.metric('diffedit_jobs_total{event="left"}') == 0
    assert server.metric('diffedit_jobs_total{event="accepted"}') == 1


# -- the keys themselves ---------------------------------------------------------------------------


class Requests:
    """Send requests with one key; the test decides when their forms arrive."""

    def __init__(self) -> None:
        self.store = JobStore(Settings())
        self.keys = IdempotencyKeys(self.store)
        self.jobs: list[Job] = []

    def admit(self, form: EditForm) -> Job:
        if form.parameters.get("prompt") == "refuse":
            raise ApiError(429, "queue_full", "full")
        job = Job(form, 1.0, 0.0, mask_only=False, request_id="id", owner=None)
        self.store.add(job)
        self.jobs.append(job)
        return job

    async def request(
        self, arrives: asyncio.Event, form: EditForm = FORM, name: tuple[str | None, str] = NAME
    ) -> Job:
        async def read(reserved: bool) -> tuple[EditForm, str]:
            await arrives.wait()
            return form, form_digest("/", form)

        return await self.keys.job(name, read, self.admit)


def now() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


def test_replay_waits_for_a_first_request_that_is_still_arriving() -> None:
    async def run() -> None:
        requests, arrives = Requests(), asyncio.Event()
        first = asyncio.create_task(requests.request(arrives))
        await asyncio.sleep(0)
        second = asyncio.create_task(requests.request(now()))
        await asyncio.sleep(0.02)
        assert not second.done()
        arrives.set()
        assert await first is await second
        assert len(requests.jobs) == 1

    asyncio.run(run())


@pytest.mark.parametrize("how", ["refused", "cancelled"])
def test_replay_takes_over_if_the_first_request_fails(how: str) -> None:
    async def run() -> None:
        requests, arrives = Requests(), asyncio.Event()
        refused = EditForm(b"image", None, {"prompt": "refuse"})
        first = asyncio.create_task(requests.request(arrives, refused))
        await asyncio.sleep(0)
        others = [asyncio.create_task(requests.request(now())) for _ in range(3)]
        await asyncio.sleep(0.01)
        if how == "refused":
            arrives.set()
        else:
            first.cancel()
        jobs = await asyncio.gather(*others)
        assert len({job.id for job in jobs}) == len(requests.jobs) == 1
        with pytest.raises((ApiError, asyncio.CancelledError)):
            await first

    asyncio.run(run())


def test_failed_and_expired_jobs_free_their_keys() -> None:
    async def run() -> None:
        requests = Requests()
        failed = await requests.request(now())
        failed.state, failed.finished_at = "failed", time.monotonic()
        second = await requests.request(now())
        assert second is not failed
        requests.store.discard(second)
        assert await requests.request(now()) is not second

    asyncio.run(run())


def test_keys_belong_to_an_owner_and_the_oldest_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(idempotency, "MAX_KEYS", 2)

    async def run() -> None:
        requests = Requests()
        alice = await requests.request(now(), name=("alice", "k"))
        assert await requests.request(now(), name=("bob", "k")) is not alice
        assert await requests.request(now(), name=("alice", "k")) is alice
        await requests.request(now(), name=("carol", "k"))
        assert await requests.request(now(), name=("alice", "k")) is not alice

    asyncio.run(run())


@pytest.mark.parametrize(
    "other",
    [
        EditForm(b"image", None, {"prompt": "a cube"}),
        EditForm(b"other image", None, {"prompt": "a ball"}),
        EditForm(b"image", b"mask", {"prompt": "a ball"}),
        EditForm(b"image", b"", {"prompt": "a ball"}),
        EditForm(b"image", None, {"prompt": "a ball"}, n=2),
    ],
)
def test_form_digest_covers_every_field(other: EditForm) -> None:
    same = EditForm(b"image", None, {"prompt": "a ball"})
    assert form_digest("/", FORM) == form_digest("/", same)
    assert form_digest("/", FORM) != form_digest("/", other)
    assert form_digest("/", FORM) != form_digest("/v1/jobs", FORM)
