"""Two replicas with Ray Serve: routing, jobs, killed replicas, upgrades and draining.

The tests share one server and run in order: the later ones kill and replace replicas, and the last
one stops the server.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2 as httpx
import pytest

from tests.server.helpers import (
    DEADLINE_SECONDS,
    FAST,
    ROOT,
    SLOW,
    ServerProcess,
    run_server,
    wait_until,
)
from tests.server.replicas import (
    EDITS,
    JOBS,
    continuous_edits,
    finished,
    numbered_image,
    post,
    replica_pids,
    submit,
    wait_for_replicas,
)

pytest.importorskip("ray", reason="needs the ray extra")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ACTIVE, LEFT = "diffedit_jobs_active{", 'diffedit_jobs_total{event="left"'


@pytest.fixture(scope="module")
def server(tiny: Path) -> Iterator[ServerProcess]:
    linger = {"DIFFEDIT_SERVE_LINGER_SECONDS": "10"}  # keeps the draining server observable
    with run_server(tiny, "--ray", "2", "--call-ms", "5", **linger) as server:
        wait_until(lambda: server.metric("diffedit_ready{") == 2, "both replicas are ready")
        yield server


def test_api_is_that_of_a_single_server(server: ServerProcess) -> None:
    response = post(server, EDITS)
    assert response.status_code == 200, response.text
    assert response.json()["data"][0]["max_abs_diff_outside_mask"] == 0
    assert response.headers["x-request-id"]
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert "diffedit" in server.get("/").text
    assert server.get("/livez").json() == {"status": "live"}
    assert server.get("/nowhere").status_code == 404
    refused = post(server, EDITS, strength="7")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "strength")
    foreign = server.get("/v1/models", headers={"Host": "evil.example"})
    assert foreign.status_code == 403
    large = httpx.post(f"{server.url}{EDITS}", content=b"x" * 21_000_000, timeout=DEADLINE_SECONDS)
    assert large.status_code == 413


def test_edits_of_an_image_go_to_the_replica_that_cached_it(server: ServerProcess) -> None:
    """Three edits of each image: the second and the third skip the encoding."""
    locations = set()
    for number in range(1, 9):
        rows = []
        for prompt in ("a red ball", "a green ball", "a blue cube"):
            job_id = submit(server, number, prompt=prompt, num_inference_steps="50")
            rows.append(finished(server, job_id)["data"][0]["rows"]["unet"])
            locations.add((number, job_id.split("-")[0]))
        assert rows[0] - rows[1] == rows[0] - rows[2] == 40, "the trajectory was cached"
    assert len(locations) == 8, "one replica for each image"
    names, number = {name for _, name in locations}, 9
    while len(names) < 2 and number < 50:  # the first eight may all hash to one replica
        names.add(submit(server, number).split("-")[0])
        number += 1
    assert len(names) == 2, "both replicas are used"
    wait_until(lambda: server.metric(ACTIVE) == 0, "all jobs have finished")
    succeeded = 'diffedit_jobs_total{event="succeeded"'
    lines = server.get("/metrics").text.splitlines()
    assert len([line for line in lines if line.startswith(succeeded)]) == 2
    assert server.metric(succeeded) >= 24


def test_jobs_are_found_on_their_replica(server: ServerProcess) -> None:
    for job_id in [submit(server, number) for number in range(6)]:
        assert finished(server, job_id)["state"] == "succeeded"
        image = server.get(f"{JOBS}/{job_id}/image")
        assert image.headers["content-type"] == "image/png"
        events = server.get(f"{JOBS}/{job_id}/events").text.splitlines()
        assert [line for line in events if line.startswith("event: ")][-1] == "event: done"
    running = server.post(JOBS, SLOW).json()["id"]
    assert server.delete(f"{JOBS}/{running}").json()["state"] == "cancelled"
    assert server.get(f"{JOBS}/gone1234-{'0' * 24}").status_code == 404


def test_idempotency_key_reaches_the_same_replica(server: ServerProcess) -> None:
    headers = {"Idempotency-Key": "once"}
    responses = [server.post(JOBS, FAST, numbered_image(3), **headers) for _ in range(4)]
    assert len({response.json()["id"] for response in responses}) == 1


@dataclass(frozen=True)
class FakeReplica:
    """A replica as `PictureRouter` sees it."""

    name: str
    backlog_seconds: float | None = None

    @property
    def replica_id(self) -> Any:
        return SimpleNamespace(unique_id=self.name)

    @property
    def routing_stats(self) -> dict[str, float]:
        if self.backlog_seconds is None:
            return {}
        return {"backlog_seconds": self.backlog_seconds, "encoding_seconds": 3.0}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised by Ray's own imports
@pytest.mark.parametrize(
    ("routing_key", "backlog_seconds", "chosen"),
    [
        ("image:1", None, "preferred"),  # the loads are not known yet
        ("image:1", 3.9, "preferred"),  # waiting is faster than encoding the image again
        ("image:1", 4.1, "idle"),
        ("pinned:1", 60.0, "preferred"),  # a repeated request must reach its first job
        ("replica:preferred", 60.0, "preferred"),
        ("replica:idle", 0.0, "idle"),
        ("replica:gone", 0.0, "preferred"),  # any replica answers 404
        ("", 0.9, "preferred"),
        ("", 1.1, "idle"),
    ],
)
def test_busy_replica_is_skipped_if_another_is_faster(
    routing_key: str, backlog_seconds: float | None, chosen: str
) -> None:
    from diffedit.server.router import rank_replicas

    preferred: Any = FakeReplica("preferred", backlog_seconds)
    idle: Any = FakeReplica("idle", None if backlog_seconds is None else 0.0)
    ranks = rank_replicas(routing_key, [[preferred], [idle]], [idle, preferred])
    assert ranks[0][0].replica_id.unique_id == chosen


@pytest.mark.parametrize("stream", ["false", "true"])
def test_disconnect_stops_an_edit(server: ServerProcess, stream: str) -> None:
    wait_until(lambda: server.metric(ACTIVE) == 0, "earlier jobs have finished")
    left = server.metric(LEFT)
    with server.open_post(EDITS, {**SLOW, "stream": stream}):
        wait_until(lambda: server.metric(ACTIVE) == 1, "the edit runs")
    wait_until(lambda: server.metric(ACTIVE) == 0, "the edit has stopped")
    assert server.metric(LEFT) == left + 1


def test_killed_replica_loses_no_request_and_is_replaced(server: ServerProcess) -> None:
    before = wait_for_replicas(2)
    with continuous_edits(server, images=5) as responses:
        wait_until(lambda: len(responses) >= 12, "12 edits before the kill")
        os.kill(before[0], signal.SIGKILL)
        count = len(responses)
        wait_until(lambda: len(responses) >= count + 12, "12 edits after the kill")
    failed = [response for response in responses if response.status_code != 200]
    for response in failed:
        assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_lost")
        assert int(response.headers["retry-after"]) >= 1
    assert len(failed) <= 1, "each edit is dispatched to the other replica once"
    assert wait_for_replicas(2) != before


UPGRADE = """
import sys
from functools import partial
from pathlib import Path
from demo.fake_server import open_fake
from diffedit.server import Settings, ray_app
from diffedit.server.scaling import Scaling

settings = Settings(port=int(sys.argv[2]), max_active=1)
open_pipeline = partial(open_fake, Path(sys.argv[1]), call_seconds=0.005)
ray_app.start(settings)
ray_app.deploy(ray_app.build(open_pipeline, "second", settings, Scaling(2, 3, cpus=0.5)))
"""


def test_upgrade_under_load_loses_no_request_and_scales_up(
    server: ServerProcess, tiny: Path
) -> None:
    """A new version replaces both replicas, and the load adds a third one, its maximum."""

    def model() -> str:
        return str(server.get("/v1/models").json()["data"][0]["id"])

    assert model() == "fake"
    with continuous_edits(server, images=6) as responses:
        done = subprocess.run(
            [sys.executable, "-c", UPGRADE, str(tiny), str(server.port)],
            cwd=ROOT,
            env={**os.environ, "RAY_ADDRESS": "auto"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert {model() for _ in range(6)} == {"second"}
        wait_for_replicas(3)
        time.sleep(2)  # long enough for a fourth replica to start
        count = len(responses)
        wait_until(lambda: len(responses) >= count + 6, "edits on the new replicas")
    assert [response.text for response in responses if response.status_code != 200] == []
    assert len(replica_pids()) == 3


def test_stream_of_a_killed_replica_ends_with_an_error_event(server: ServerProcess) -> None:
    files = {"image": ("a.png", numbered_image(0))}
    form = {**SLOW, "stream": "true", "partial_images": "3"}
    url = f"{server.url}{EDITS}"
    with httpx.stream("POST", url, files=files, data=form, timeout=DEADLINE_SECONDS) as response:
        lines = response.iter_lines()
        assert "partial_image" in next(lines)
        for pid in replica_pids():
            os.kill(pid, signal.SIGKILL)
        rest = [line for line in lines if line]
    assert rest[-2] == "event: error"
    assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "engine_lost"
    wait_until(lambda: post(server, EDITS).status_code == 200, "new replicas respond")


def test_sigterm_finishes_running_edits(server: ServerProcess) -> None:
    form = {**FAST, "num_inference_steps": "400", "strength": "1"}
    wait_until(lambda: server.metric(ACTIVE) == 0, "earlier jobs have finished")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(server.post, EDITS, form)
        wait_until(lambda: server.metric(ACTIVE) == 1, "the edit runs")
        server.terminate()
        wait_until(lambda: server.get("/readyz").status_code == 503, "the server drains")
        refused = post(server, EDITS)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
        assert running.result().status_code == 200
    assert server.wait() == 0
