"""Two replicas on a Ray of their own, behind one address: who serves what, and who dies when."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2 as httpx
import pytest

from tests.server.kit import FAST, ROOT, Process, encoded, served

pytest.importorskip("ray", reason="needs the ray extra")

from demo.picture import still_life

pytestmark = pytest.mark.slow

SLOW = {**FAST, "num_inference_steps": "200", "strength": "1"}


@pytest.fixture(scope="module")
def server(tiny: Path) -> Iterator[Process]:
    with served(tiny, "--ray", "2", "--call-ms", "5") as found:
        until(lambda: figure(found, "diffedit_ready{") == 2)  # it answers with the first
        yield found


def picture(number: int) -> bytes:
    """Pictures that differ."""
    return encoded(still_life(96, 72 + 8 * number))


def post(server: Process, path: str, number: int = 0, **data: Any) -> httpx.Response:
    files = {"image": ("a.png", picture(number))}
    return httpx.post(f"{server.url}{path}", files=files, data={**FAST, **data}, timeout=60)


def job(server: Process, number: int = 0, **data: Any) -> str:
    answer = post(server, "/v1/jobs", number, **data)
    assert answer.status_code == 202, answer.text
    found: str = answer.json()["id"]
    return found


def state(server: Process, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{server.url}/v1/jobs/{job_id}").json()
    return found


def metrics(server: Process) -> str:
    return httpx.get(f"{server.url}/metrics").text


def figure(server: Process, name: str) -> float:
    """The sum of a figure over the replicas."""
    lines = metrics(server).splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def until(what: Callable[[], Any], seconds: float = 60) -> Any:
    """What it returns once that is something."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.1)
    raise AssertionError("it did not come to pass")


def replicas() -> list[int]:
    """Process numbers of the replicas that hold a model."""
    told = subprocess.run(["ps", "-eo", "pid=,args="], capture_output=True, text=True, check=True)
    lines = [line.split(maxsplit=1) for line in told.stdout.splitlines()]
    return [
        int(pid) for pid, name in lines if name.startswith("ray::ServeReplica:diffedit:replica")
    ]


def test_the_api_is_one_servers(server: Process) -> None:
    answer = post(server, "/v1/images/edits")
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"][0]["max_abs_diff_outside_mask"] == 0
    assert answer.headers["x-request-id"]
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "diffedit" in httpx.get(f"{server.url}/").text
    assert httpx.get(f"{server.url}/livez").json() == {"status": "live"}
    assert httpx.get(f"{server.url}/nowhere").status_code == 404
    refused = post(server, "/v1/images/edits", strength="7")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "strength")
    foreign = httpx.get(f"{server.url}/v1/models", headers={"Host": "evil.example"})
    assert foreign.status_code == 403, "the front is the door"
    large = httpx.post(f"{server.url}/v1/images/edits", content=b"x" * 21_000_000)
    assert large.status_code == 413


def finished(server: Process, job_id: str) -> dict[str, Any]:
    """What is told of a job once it is over."""
    found: dict[str, Any] = until(lambda: (s := state(server, job_id)).get("data") and s)
    return found


def test_an_edit_goes_where_its_picture_is_known(server: Process) -> None:
    """Three edits of each picture: the second and third are spared its encoding."""
    homes = set()
    for number in range(1, 9):
        rows = []
        for prompt in ("a red ball", "a green ball", "a blue cube"):
            job_id = job(server, number, prompt=prompt, num_inference_steps="50")
            rows.append(finished(server, job_id)["data"][0]["rows"]["unet"])
            homes.add((number, job_id.split("-")[0]))
        assert rows[0] - rows[1] == rows[0] - rows[2] == 40, "the trajectory was there"
    assert len(homes) == 8, "one home for each picture"
    names, number = {name for _, name in homes}, 9
    while len(names) < 2 and number < 50:  # eight pictures may all have the same home
        names.add(job(server, number).split("-")[0])
        number += 1
    assert len(names) == 2, "both replicas serve"
    until(lambda: figure(server, "diffedit_jobs_active{") == 0)
    succeeded = [
        x for x in metrics(server).splitlines() if 'diffedit_jobs_total{event="succeeded"' in x
    ]
    assert len(succeeded) == 2
    assert sum(float(line.split()[-1]) for line in succeeded) >= 24


def test_jobs_are_found_wherever_they_are(server: Process) -> None:
    for job_id in [job(server, number) for number in range(6)]:
        assert finished(server, job_id)["state"] == "succeeded"
        image = httpx.get(f"{server.url}/v1/jobs/{job_id}/image")
        assert image.headers["content-type"] == "image/png"
        with httpx.stream("GET", f"{server.url}/v1/jobs/{job_id}/events") as events:
            told = [line for line in events.iter_lines() if line.startswith("event: ")]
        assert told[-1] == "event: done"
    running = job(server, num_inference_steps="200", strength="1")
    assert httpx.delete(f"{server.url}/v1/jobs/{running}").json()["state"] == "cancelled"
    assert httpx.get(f"{server.url}/v1/jobs/gone1234-{'0' * 24}").status_code == 404


def test_repeating_a_job_is_safe(server: Process) -> None:
    names = set()
    for _ in range(4):
        answer = httpx.post(
            f"{server.url}/v1/jobs",
            files={"image": ("a.png", picture(3))},
            data=FAST,
            headers={"Idempotency-Key": "once"},
        )
        names.add(answer.json()["id"])
    assert len(names) == 1


@dataclass(frozen=True)
class Loaded:
    """A replica as PictureRouter sees one."""

    name: str
    backlog: float | None = None

    @property
    def replica_id(self) -> Any:
        return SimpleNamespace(unique_id=self.name)

    @property
    def routing_stats(self) -> dict[str, float]:
        return {} if self.backlog is None else {"backlog": self.backlog, "detour": 3.0}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's own, when it is imported
@pytest.mark.parametrize(
    ("session", "backlog", "wanted"),
    [
        ("image:1", None, "home"),  # nothing is known of their loads yet
        ("image:1", 3.9, "home"),  # waiting there is no longer than encoding elsewhere
        ("image:1", 4.1, "idle"),
        ("keep:1", 60.0, "home"),  # a repeated order has to meet the first
        ("server:home", 60.0, "home"),
        ("server:idle", 0.0, "idle"),
        ("server:gone", 0.0, "home"),  # anybody can say so
        ("", 0.9, "home"),
        ("", 1.1, "idle"),
    ],
)
def test_a_busy_home_is_passed_where_that_is_quicker(
    session: str, backlog: float | None, wanted: str
) -> None:
    from diffedit.server.router import ordered

    home: Any = Loaded("home", backlog)
    idle: Any = Loaded("idle", None if backlog is None else 0.0)
    ranks = ordered(session, [[home], [idle]], [idle, home])
    assert ranks[0][0].replica_id.unique_id == wanted


@pytest.mark.parametrize("stream", ["false", "true"])
def test_a_client_that_leaves_stops_its_edit(server: Process, stream: str) -> None:
    left = figure(server, 'diffedit_jobs_total{event="left"')
    files = {"image": ("a.png", picture(0))}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{server.url}/v1/images/edits",
            files=files,
            data={**SLOW, "stream": stream},
            timeout=1.0,
        )
    until(lambda: figure(server, "diffedit_jobs_active{") == 0, 10)
    assert figure(server, 'diffedit_jobs_total{event="left"') == left + 1


def test_a_replica_that_dies_takes_no_request_with_it(server: Process) -> None:
    """Killed under load: what it held is carried to the other, and a new one comes."""
    before = until(lambda: len(found := replicas()) == 2 and found)
    stop, answers = threading.Event(), []

    def client(number: int) -> None:
        while not stop.is_set():
            answers.append(post(server, "/v1/images/edits", number % 5, seed=str(number)))

    with ThreadPoolExecutor(6) as pool:
        for number in range(6):
            pool.submit(client, number)
        until(lambda: len(answers) >= 12)
        os.kill(before[0], signal.SIGKILL)
        count = len(answers)
        until(lambda: len(answers) >= count + 12)
        stop.set()
    failed = [a for a in answers if a.status_code != 200]
    for answer in failed:
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_lost")
        assert int(answer.headers["retry-after"]) >= 1
    assert len(failed) <= 1, "an edit is carried to the other replica once"
    assert until(lambda: len(found := replicas()) == 2 and found) != before


UPGRADE = """
import sys
from functools import partial
from pathlib import Path
from diffedit.server import Settings, cluster
from demo.fake_server import open_fake
from diffedit.server.scaling import Scaling

settings = Settings(port=int(sys.argv[2]), max_active=1)
opening = partial(open_fake, Path(sys.argv[1]), call_seconds=0.005)
cluster.start(settings)
cluster.deploy(cluster.build(opening, "second", settings, Scaling(2, 3, cpus=0.5)))
"""


def test_an_upgrade_is_not_noticed_and_load_adds_a_replica(server: Process, tiny: Path) -> None:
    """A new version replaces both replicas while edits go on, and grows to its bound: all 200."""
    stop, answers = threading.Event(), []

    def client(number: int) -> None:
        while not stop.is_set():
            answers.append(post(server, "/v1/images/edits", number))

    def model() -> str:
        return str(httpx.get(f"{server.url}/v1/models").json()["data"][0]["id"])

    assert model() == "fake"
    with ThreadPoolExecutor(6) as pool:
        for number in range(6):
            pool.submit(client, number)
        done = subprocess.run(
            [sys.executable, "-c", UPGRADE, str(tiny), str(server.port)],
            cwd=ROOT, env={**os.environ, "RAY_ADDRESS": "auto"}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        assert {model() for _ in range(6)} == {"second"}
        until(lambda: len(replicas()) == 3, 90)
        time.sleep(2)
        stop.set()
    assert [a.text for a in answers if a.status_code != 200] == []
    assert len(answers) > 20
    assert len(replicas()) == 3, "and no more"


def test_a_stream_that_loses_its_replica_is_told(server: Process) -> None:
    files = {"image": ("a.png", picture(0))}
    data = {**SLOW, "stream": "true", "partial_images": "3"}
    url = f"{server.url}/v1/images/edits"
    with httpx.stream("POST", url, files=files, data=data, timeout=60) as answer:
        lines = answer.iter_lines()
        assert "partial_image" in next(lines)
        for pid in replicas():
            os.kill(pid, signal.SIGKILL)
        told = [line for line in lines if line]
    assert told[-2] == "event: error"
    assert json.loads(told[-1].removeprefix("data: "))["error"]["code"] == "engine_lost"
    until(lambda: post(server, "/v1/images/edits").status_code == 200)


def test_what_is_under_way_is_finished_when_it_ends(server: Process) -> None:
    """The last test of the file: the server is told to stop while it edits."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(post, server, "/v1/images/edits", num_inference_steps="300")
        until(lambda: figure(server, "diffedit_jobs_active{") == 1)
        server.terminate()
        until(lambda: httpx.get(f"{server.url}/readyz").status_code == 503, 5)
        refused = post(server, "/v1/images/edits")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
        assert running.result().status_code == 200
    assert server.wait(60) == 0
