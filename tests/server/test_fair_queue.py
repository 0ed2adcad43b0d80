"""The queue in which API keys take turns, and the quotas of a key."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi", reason="needs the server extra")

from diffedit.server import Settings
from diffedit.server.admission import check_queue
from diffedit.server.errors import ApiError
from diffedit.server.fair_queue import FairQueue, fair_seconds
from diffedit.server.forms import EditForm
from diffedit.server.jobs import Job
from diffedit.server.quotas import Quotas


def job(owner: str | None) -> Job:
    form = EditForm(b"", None, {})
    return Job(form, 1.0, 0.0, mask_only=False, request_id="id", owner=owner)


def queue_of(*owners: str | None) -> tuple[FairQueue, list[Job]]:
    queue, jobs = FairQueue(), [job(owner) for owner in owners]
    for one in jobs:
        queue.append(one)
    return queue, jobs


def owners_in_order(queue: FairQueue, running: list[Job]) -> list[str | None]:
    return [one.owner for one in queue.in_order(running)]


def test_one_owner_is_served_in_order() -> None:
    queue, jobs = queue_of(None, None, None)
    assert queue.in_order([]) == jobs
    assert [queue.pop([]) for _ in jobs] == jobs
    assert len(queue) == 0
    assert queue.pop([]) is None


def test_owners_take_turns() -> None:
    queue, jobs = queue_of("a", "a", "a", "a", "b", "b", "c")
    order = queue.in_order([])
    assert [one.owner for one in order] == ["a", "b", "c", "a", "b", "a", "a"]
    assert [one for one in order if one.owner == "a"] == jobs[:4]
    popped: list[Job] = []
    while (next_one := queue.pop(popped)) is not None:
        popped.append(next_one)
    assert popped == order


def test_owner_with_fewer_running_jobs_goes_first() -> None:
    queue, _ = queue_of("a", "a", "b")
    assert owners_in_order(queue, [job("a"), job("a")]) == ["b", "a", "a"]


def test_owner_at_the_limit_waits_and_jobs_without_a_key_have_none() -> None:
    queue, _ = queue_of("a", None, None)
    assert queue.pop([job("a")], 1).owner is None  # type: ignore[union-attr]
    assert queue.pop([job("a"), job(None)], 1).owner is None  # type: ignore[union-attr]
    assert queue.pop([job("a")], 1) is None
    assert queue.pop([], 1).owner == "a"  # type: ignore[union-attr]


def test_jobs_are_removed_from_anywhere() -> None:
    queue, jobs = queue_of("a", "b", "a")
    queue.remove(jobs[0])
    queue.remove(jobs[0])
    assert jobs[0] not in queue
    assert jobs[2] in queue
    queue.remove(jobs[1])
    assert queue.owners == {"a"}
    assert list(queue) == [jobs[2]]


def test_seconds_until_a_further_job_begins() -> None:
    flood = [("a", 50.0), ("a", 50.0)]
    assert fair_seconds("a", flood) == 100
    assert fair_seconds("b", flood) == 0
    assert fair_seconds("b", flood, 3.0) == 3
    assert fair_seconds("b", [*flood, ("b", 4.0), ("c", 1.0)], 2.0) == 4 + 6 + 1
    assert fair_seconds(None, [(None, 2.0), (None, 3.0)], 9.0) == 5


def test_full_queue_still_takes_an_owner_below_its_share() -> None:
    settings = Settings(max_waiting=4)
    queue, _ = queue_of(*["a"] * 4)

    def check(owner: str, *, starts_now: bool = False) -> None:
        check_queue(queue, owner, 0.0, settings, starts_now=starts_now)

    check("a", starts_now=True)
    with pytest.raises(ApiError):
        check("a")
    check("b")
    queue.append(job("b"))
    check("b")
    queue.append(job("b"))
    with pytest.raises(ApiError):  # two owners share four places
        check("b")


# -- quotas ----------------------------------------------------------------------------------------


def test_quota_of_edits_at_a_time() -> None:
    limits = Quotas(Settings(key_max_edits=3))
    limits.check("a", 2)
    limits.check(None, 99)
    with pytest.raises(ApiError) as info:
        limits.check("a", 2, 2)
    assert (info.value.status, info.value.code) == (429, "quota_exceeded")
    with pytest.raises(ApiError) as info:
        limits.check("a", 0, 4)
    assert (info.value.status, info.value.param) == (400, "n")


def test_quota_of_edits_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("diffedit.server.quotas.time.monotonic", lambda: now)
    limits = Quotas(Settings(key_edits_per_minute=3))
    limits.count("a", 2)
    now = 1010.0
    limits.check("a", 0)
    limits.count("a", 1)
    limits.check("b", 0)
    now = 1020.0
    with pytest.raises(ApiError) as info:
        limits.check("a", 0)
    assert info.value.headers["Retry-After"] == "40"
    with pytest.raises(ApiError) as info:
        limits.check("a", 0, 3)
    assert info.value.headers["Retry-After"] == "50"
    now = 1060.5
    limits.check("a", 0, 2)
    now = 1080.0
    limits.check("a", 0, 3)
    assert not limits._admitted, "keys that are idle are forgotten"
