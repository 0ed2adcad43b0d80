"""Overload, disconnects, faults of the engine, signals and slow clients, against a real process.

No test depends on the speed of the machine: each waits for a state, with a generous deadline.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from tests.server.helpers import (
    DEADLINE_SECONDS,
    FAST,
    SLOW,
    ServerProcess,
    run_server,
    wait_until,
)

pytestmark = pytest.mark.slow

EDITS, JOBS = "/v1/images/edits", "/v1/jobs"
UNET_CALLS = 'diffedit_network_calls_total{network="unet"}'


def edit(server: ServerProcess, seed: int = 0, **fields: Any) -> httpx.Response:
    return server.post(EDITS, {**FAST, "seed": str(seed), **fields})


def submit(server: ServerProcess, form: dict[str, str]) -> str:
    """Create a job and return its id."""
    response = server.post(JOBS, form)
    assert response.status_code == 202, response.text
    job_id: str = response.json()["id"]
    return job_id


def job_state(server: ServerProcess, job_id: str) -> dict[str, Any]:
    state: dict[str, Any] = server.get(f"{JOBS}/{job_id}").json()
    return state


def wait_for_state(server: ServerProcess, job_id: str, state: str) -> None:
    wait_until(lambda: job_state(server, job_id)["state"] == state, f"the job is {state}")


def error_code(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def test_overload_is_refused_and_accepted_edits_succeed(tiny: Path) -> None:
    limits = {"DIFFEDIT_SERVE_MAX_QUEUE_SECONDS": "0.1", "DIFFEDIT_SERVE_MAX_ACTIVE": "2"}
    with run_server(tiny, "--call-ms", "5", **limits) as server, ThreadPoolExecutor(24) as pool:
        responses = list(pool.map(lambda seed: edit(server, seed), range(48)))
        assert {response.status_code for response in responses} == {200, 429}
        refused = [response for response in responses if response.status_code == 429]
        for response in refused:
            assert int(response.headers["retry-after"]) >= 1
            assert response.json()["error"]["code"] == "queue_full"
        assert server.metric('diffedit_jobs_total{event="refused"}') == len(refused)
        assert edit(server).status_code == 200


def test_cancelled_job_frees_its_slot(tiny: Path) -> None:
    with run_server(tiny, "--call-ms", "20", DIFFEDIT_SERVE_MAX_ACTIVE="1") as server:
        running, waiting = submit(server, SLOW), submit(server, FAST)
        wait_for_state(server, running, "running")
        state = job_state(server, waiting)
        assert (state["state"], state["position"]) == ("queued", 1)
        cancelled = server.delete(f"{JOBS}/{running}")
        assert cancelled.json()["state"] == "cancelled"
        wait_for_state(server, waiting, "succeeded")
        assert server.metric(UNET_CALLS) < 1000, "the cancelled job would have made 2,000 calls"
        assert server.get(f"{JOBS}/{running}/image").status_code == 410
        assert server.delete(f"{JOBS}/{running}").json()["state"] == "cancelled"


@pytest.fixture(scope="module")
def server(tiny: Path) -> Iterator[ServerProcess]:
    """A server whose SLOW edits take 40 s."""
    with run_server(tiny, "--call-ms", "20") as server:
        yield server


def test_disconnect_stops_a_synchronous_edit(server: ServerProcess) -> None:
    for stream in ("false", "true"):
        with server.open_post(EDITS, {**SLOW, "stream": stream}):
            server.wait_for_jobs(1)
        server.wait_for_jobs(0)
    assert server.metric('diffedit_jobs_total{event="left"}') == 2

    def no_new_calls() -> bool:
        calls = server.metric(UNET_CALLS)
        time.sleep(0.3)
        return server.metric(UNET_CALLS) == calls

    wait_until(no_new_calls, "the networks are idle", 20)


def test_disconnect_does_not_stop_a_job(server: ServerProcess) -> None:
    job_id = submit(server, {**FAST, "num_inference_steps": "20"})
    with httpx.stream("GET", f"{server.url}{JOBS}/{job_id}/events", timeout=60) as events:
        assert next(events.iter_lines())
    wait_for_state(server, job_id, "succeeded")


def test_poisoned_edit_fails_alone(tiny: Path) -> None:
    """NaN in one row of a shared call does not change the other rows."""
    with run_server(tiny, "--call-ms", "2", "--fault", "nan") as server:
        alone = [edit(server, seed).json()["data"][0]["b64_json"] for seed in range(4)]
        with ThreadPoolExecutor(5) as pool:
            poisoned = pool.submit(edit, server, prompt="poison")
            others = list(pool.map(lambda seed: edit(server, seed), range(4)))
        failed = poisoned.result()
        assert error_code(failed) == (422, "numerical_error")
        assert failed.headers["x-should-retry"] == "false"
        assert [response.json()["data"][0]["b64_json"] for response in others] == alone


def test_out_of_memory_fails_one_edit(tiny: Path) -> None:
    with run_server(tiny, "--fault", "oom") as server:
        failed = edit(server, prompt="poison")
        assert error_code(failed) == (503, "out_of_memory")
        assert int(failed.headers["retry-after"]) >= 1
        assert edit(server).status_code == 200


@pytest.mark.parametrize("fault", ["hang", "crash"])
def test_engine_failure_answers_running_edits_and_exits_with_70(tiny: Path, fault: str) -> None:
    limits = {"DIFFEDIT_SERVE_STALL_SECONDS": "1"}
    with (
        run_server(tiny, "--call-ms", "5", "--fault", fault, **limits) as server,
        ThreadPoolExecutor(1) as pool,
    ):
        other = pool.submit(server.post, EDITS, SLOW)
        server.wait_for_jobs(1)
        for response in (edit(server, prompt="poison"), other.result()):
            assert error_code(response) == (503, "engine_lost")
            assert "retry-after" in response.headers
        assert server.wait() == 70


def test_sigterm_finishes_running_edits(tiny: Path) -> None:
    with run_server(tiny, "--call-ms", "20") as server, ThreadPoolExecutor(1) as pool:
        running = pool.submit(edit, server, num_inference_steps="100", strength="1")
        server.wait_for_jobs(1)
        server.terminate()
        wait_until(lambda: server.get("/readyz").status_code == 503, "the server is not ready")
        assert error_code(server.get("/readyz")) == (503, "draining")
        refused = edit(server)
        assert error_code(refused) == (503, "draining")
        assert "retry-after" in refused.headers
        assert running.result().status_code == 200
        assert server.wait() == 0


def test_second_signal_exits_without_waiting_for_jobs(tiny: Path) -> None:
    with run_server(tiny, "--call-ms", "50") as server:
        submit(server, SLOW)  # takes 100 s; draining alone would wait 60 s
        server.terminate()
        wait_until(lambda: server.get("/readyz").status_code == 503, "the server drains")
        assert server.process.poll() is None
        began = time.monotonic()
        server.terminate()
        server.wait()
        assert time.monotonic() - began < 40


# -- slow clients ----------------------------------------------------------------------------------


UPLOAD_SECONDS = 1.0


@pytest.fixture(scope="module")
def impatient(tiny: Path) -> Iterator[ServerProcess]:
    """A server with a short upload timeout."""
    with run_server(tiny, DIFFEDIT_SERVE_UPLOAD_SECONDS=str(UPLOAD_SECONDS)) as server:
        yield server


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ("Content-Length: 1000", b"--x\r\n", 408),
        ("Content-Length: 3", b"--x and more than three bytes", 400),
        ("Content-Length: 99999999999", b"--x", 413),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", b"0\r\n\r\n", 400),
    ],
    ids=["incomplete", "too long", "too large", "ambiguous"],
)
def test_bodies_with_a_wrong_length(
    impatient: ServerProcess, headers: str, body: bytes, status: int
) -> None:
    head = (
        f"POST {EDITS} HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: multipart/form-data; boundary=x\r\n{headers}\r\n\r\n"
    )
    address = ("127.0.0.1", impatient.port)
    with socket.create_connection(address, timeout=DEADLINE_SECONDS) as connection:
        connection.sendall(head.encode() + body)
        response = connection.recv(4096)
    assert response.startswith(b"HTTP/1.1 %d " % status)
    assert edit(impatient).status_code == 200


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET /livez HT", b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-A: "],
    ids=["nothing", "half a line", "one byte at a time"],
)
def test_incomplete_headers_time_out(impatient: ServerProcess, sent: bytes) -> None:
    began, response = time.monotonic(), b""
    with socket.create_connection(("127.0.0.1", impatient.port)) as connection:
        connection.settimeout(0.1)
        connection.sendall(sent)
        while time.monotonic() - began < DEADLINE_SECONDS:
            try:
                if not (received := connection.recv(1000)):
                    break
                response += received
            except TimeoutError:
                connection.sendall(b"a" if sent else b"")
    assert response.startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - began > 0.9 * UPLOAD_SECONDS


def test_header_timeout_starts_again_for_each_request(impatient: ServerProcess) -> None:
    with httpx.Client(base_url=impatient.url, timeout=DEADLINE_SECONDS) as client:
        for _ in range(3):
            assert client.get("/livez").status_code == 200
            time.sleep(0.6 * UPLOAD_SECONDS)
