"""Expiry and owners of finished jobs."""

from __future__ import annotations

import time

import pytest

pytest.importorskip("fastapi", reason="needs the server extra")

from diffedit.server import Settings, job_store
from diffedit.server.errors import ApiError
from diffedit.server.forms import EditForm
from diffedit.server.job_store import JobStore
from diffedit.server.jobs import Job

FORM = EditForm(b"image", None, {"prompt": "a ball"})


def make_job(owner: str | None = None) -> Job:
    return Job(FORM, 1.0, 0.0, mask_only=False, request_id="id", owner=owner)


def finished_job(age_seconds: float, result_bytes: int = 0) -> Job:
    job = make_job()
    job.state, job.finished_at = "succeeded", time.monotonic() - age_seconds
    job.emit("preview", image="x" * result_bytes)
    return job


def store_of(*jobs: Job, **limits: float) -> JobStore:
    store = JobStore(Settings.model_validate({"result_seconds": 60.0, **limits}))
    for job in jobs:
        store.add(job)
    for job in sorted(jobs, key=lambda job: job.finished_at or 0.0):
        if job.finished:
            store.measure(job)
    return store


def test_job_is_found_by_its_owner_only() -> None:
    job = make_job(owner="alice")
    store = store_of(job)
    assert store.find(job.id, "alice") is job
    for owner in ("bob", None):
        with pytest.raises(ApiError) as error:
            store.find(job.id, owner)
        assert (error.value.status, error.value.code) == (404, "no_such_job")


def test_old_results_expire() -> None:
    old, recent, running = finished_job(61), finished_job(1), make_job()
    store = store_of(old, recent, running)
    store.sweep()
    assert list(store) == [recent, running]


def test_oldest_results_are_dropped_over_the_byte_limit() -> None:
    first, second, third = (finished_job(age, 400) for age in (3, 2, 1))
    store = store_of(third, second, first, result_bytes=900)
    store.sweep()
    assert set(store) == {second, third}


def test_oldest_results_are_dropped_over_the_job_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_store, "MAX_JOBS", 2)
    first, second, running = finished_job(2), finished_job(1), make_job()
    store = store_of(first, second, running)
    store.sweep()
    assert list(store) == [second, running]


def test_bytes_are_counted_and_freed() -> None:
    first, second = finished_job(1, 100), finished_job(2, 50)
    store = store_of(first, second)
    assert store.stored_bytes == 150
    first.emit("preview", image="x" * 7)
    store.measure(first)
    assert store.stored_bytes == 157
    store.discard(second)
    store.discard(second)
    store.measure(second)  # it is not stored any more
    assert store.stored_bytes == 107
    store.discard(first)
    assert store.stored_bytes == len(store) == 0


def test_stored_jobs_are_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy server stores thousands, and sweeps with every request."""
    store = store_of(*(finished_job(1) for _ in range(100)))
    measured: list[Job] = []
    monkeypatch.setattr(Job, "size", property(measured.append))
    for _ in range(10):
        store.sweep()
    assert not measured
    assert len(store) == 100
