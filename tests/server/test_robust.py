"""What must not bring a server down: load, clients that leave, faults below, signals."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from fastapi.testclient import TestClient

from tests.server.kit import FAST, Process, picture, served

SLOW = {**FAST, "num_inference_steps": "200", "strength": "1"}
MakeClient = Callable[..., TestClient]


def edit(server: Process, timeout: float = 30, seed: Any = 0, **data: Any) -> httpx.Response:
    files = {"image": ("a.png", picture())}
    form = {**FAST, "seed": str(seed), **data}
    return httpx.post(f"{server.url}/v1/images/edits", files=files, data=form, timeout=timeout)


def start(server: Process, **data: Any) -> str:
    files = {"image": ("a.png", picture())}
    answer = httpx.post(f"{server.url}/v1/jobs", files=files, data={**FAST, **data})
    assert answer.status_code == 202, answer.text
    job: str = answer.json()["id"]
    return job


def figure(server: Process, name: str) -> float:
    """A line of /metrics; 0 where it is not there yet."""
    for line in httpx.get(f"{server.url}/metrics").text.splitlines():
        if line.startswith(f"{name} "):
            return float(line.split()[-1])
    return 0.0


def test_overload_is_refused_early_and_the_rest_is_served(tiny: Path) -> None:
    limits = {"DIFFEDIT_SERVE_MAX_QUEUE_SECONDS": "0.1", "DIFFEDIT_SERVE_MAX_ACTIVE": "2"}
    with served(tiny, "--call-ms", "5", **limits) as server, ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda k: edit(server, seed=k), range(48)))
        statuses = [a.status_code for a in answers]
        assert set(statuses) == {200, 429}
        refused = [a for a in answers if a.status_code == 429]
        for answer in refused:
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.json()["error"]["code"] == "queue_full"
        assert figure(server, 'diffedit_jobs_total{event="refused"}') == len(refused)
        assert edit(server).status_code == 200


def test_a_cancelled_job_ends_and_frees_its_place(tiny: Path) -> None:
    with served(tiny, "--call-ms", "20", DIFFEDIT_SERVE_MAX_ACTIVE="1") as server:
        running, waiting = start(server, **SLOW), start(server)
        time.sleep(0.3)
        state = httpx.get(f"{server.url}/v1/jobs/{waiting}").json()
        assert (state["state"], state["position"]) == ("queued", 1)
        began = time.monotonic()
        ended = httpx.delete(f"{server.url}/v1/jobs/{running}").json()
        assert ended["state"] == "cancelled"
        with httpx.stream("GET", f"{server.url}/v1/jobs/{waiting}/events") as events:
            for line in events.iter_lines():
                if '"stage"' in line:
                    break
        assert time.monotonic() - began < 1.0, "the next one's turn came within moments"
        assert httpx.get(f"{server.url}/v1/jobs/{running}/image").status_code == 410
        again = httpx.delete(f"{server.url}/v1/jobs/{running}")
        assert again.json()["state"] == "cancelled"


def test_a_client_that_leaves_stops_its_edit_but_not_a_job(tiny: Path) -> None:
    with served(tiny, "--call-ms", "20") as server:
        for path in ("plain", "stream"):
            form: dict[str, Any] = SLOW if path == "plain" else {**SLOW, "stream": "true"}
            with pytest.raises(httpx.ReadTimeout):
                edit(server, timeout=0.4, **form)
        deadline = time.monotonic() + 5
        while figure(server, "diffedit_jobs_active") and time.monotonic() < deadline:
            time.sleep(0.02)
        assert figure(server, 'diffedit_jobs_total{event="left"}') == 2
        time.sleep(0.1)
        calls = figure(server, 'diffedit_network_calls_total{network="unet"}')
        time.sleep(0.3)
        assert figure(server, 'diffedit_network_calls_total{network="unet"}') == calls
        job = start(server, **{**SLOW, "num_inference_steps": "10"})
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(f"{server.url}/v1/jobs/{job}/events", timeout=0.05)
        while (state := httpx.get(f"{server.url}/v1/jobs/{job}").json())["state"] == "running":
            time.sleep(0.05)
        assert state["state"] == "succeeded"


def test_a_poisoned_edit_fails_alone(tiny: Path) -> None:
    """NaN in one row of a shared call: the others are equal to the bit."""
    with served(tiny, "--call-ms", "2", "--fault", "nan") as server:
        alone = [edit(server, seed=k).json()["data"][0]["b64_json"] for k in range(4)]
        with ThreadPoolExecutor(5) as pool:
            bad = pool.submit(edit, server, prompt="poison")
            good = list(pool.map(lambda k: edit(server, seed=k), range(4)))
        failed = bad.result()
        assert failed.status_code == 422
        assert failed.json()["error"]["code"] == "numerical_error"
        assert failed.headers["x-should-retry"] == "false"
        assert [a.json()["data"][0]["b64_json"] for a in good] == alone


def test_out_of_memory_is_an_answer(tiny: Path) -> None:
    with served(tiny, "--fault", "oom") as server:
        failed = edit(server, prompt="poison")
        assert (failed.status_code, failed.json()["error"]["code"]) == (503, "out_of_memory")
        assert int(failed.headers["retry-after"]) >= 1
        assert edit(server).status_code == 200


@pytest.mark.parametrize("kind", ["hang", "crash"])
def test_a_lost_engine_answers_what_it_holds_and_ends(tiny: Path, kind: str) -> None:
    limits = {"DIFFEDIT_SERVE_STALL_SECONDS": "1"}
    with served(tiny, "--call-ms", "5", "--fault", kind, **limits) as server:
        with ThreadPoolExecutor(2) as pool:
            held = [pool.submit(edit, server, prompt=p) for p in ("poison", "a ball")]
            answers = [future.result(timeout=20) for future in held]
        lost = answers[0]
        assert (lost.status_code, lost.json()["error"]["code"]) == (503, "engine_lost")
        assert "retry-after" in lost.headers
        assert server.wait() == 70


def test_sigterm_finishes_what_is_under_way(tiny: Path) -> None:
    with served(tiny, "--call-ms", "20") as server, ThreadPoolExecutor(2) as pool:
        under_way = pool.submit(lambda: edit(server, num_inference_steps="20", strength="1"))
        time.sleep(0.3)
        server.terminate()
        time.sleep(0.1)
        ready = httpx.get(f"{server.url}/readyz")
        assert (ready.status_code, ready.json()["error"]["code"]) == (503, "draining")
        late = edit(server)
        assert late.status_code == 503
        assert "retry-after" in late.headers
        assert under_way.result(timeout=20).status_code == 200
        assert server.wait() == 0


def test_a_second_signal_ends_at_once(tiny: Path) -> None:
    with served(tiny, "--call-ms", "50") as server:
        start(server, **SLOW)
        server.terminate()
        time.sleep(0.3)
        assert server.process.poll() is None
        began = time.monotonic()
        server.terminate()
        server.wait()
        assert time.monotonic() - began < 8


def test_a_deadline_that_passes(make_client: MakeClient) -> None:
    """Calls that get slower than they were when they were measured."""
    slow = threading.Event()
    client = make_client(request_seconds=1.0)
    pipe = client.app.state.engine_host.pipe  # type: ignore[attr-defined]
    backend = pipe.networks
    inner = backend._fault

    def drag(net: str, batch: Any, output: Any) -> Any:
        if slow.is_set():
            time.sleep(0.3)
        return inner(net, batch, output)

    for fake in backend.backends.values():
        fake._fault = drag
    slow.set()
    answer = client.post("/v1/images/edits", files={"image": ("a.png", picture())}, data=FAST)
    slow.clear()
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "deadline_exceeded"
    good = client.post("/v1/images/edits", files={"image": ("a.png", picture())}, data=FAST)
    assert good.status_code == 200


def test_an_idle_model_is_put_away_and_comes_back(make_client: MakeClient) -> None:
    client = make_client(idle_unload_seconds=0.2)
    files = {"image": ("a.png", picture())}
    first = client.post("/v1/images/edits", files=files, data=FAST)
    deadline = time.monotonic() + 10
    while client.get("/readyz").json()["loaded"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert "diffedit_loaded 0.0" in client.get("/metrics").text
    again = client.post("/v1/images/edits", files=files, data=FAST)
    assert again.json()["data"][0]["b64_json"] == first.json()["data"][0]["b64_json"]


def test_slow_bodies_and_lying_lengths(tiny: Path) -> None:
    with served(tiny, DIFFEDIT_SERVE_UPLOAD_SECONDS="0.5") as server:

        def talk(head: str, body: bytes = b"") -> str:
            with socket.create_connection(("127.0.0.1", server.port), timeout=10) as wire:
                start_line = "POST /v1/images/edits HTTP/1.1\r\nHost: localhost\r\n"
                wire.sendall((start_line + head + "\r\n").encode() + body)
                return wire.recv(4096).decode(errors="replace")

        form = "Content-Type: multipart/form-data; boundary=x\r\n"
        assert " 408 " in talk(form + "Content-Length: 1000\r\n", b"--x\r\n")
        assert " 400 " in talk(form + "Content-Length: 3\r\n", b"--x and much more than three")
        assert " 413 " in talk(form + "Content-Length: 99999999999\r\n", b"--x")
        both = talk(form + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n")
        assert " 400 " in both
        assert edit(server).status_code == 200


def test_headers_that_do_not_come_are_not_waited_for(tiny: Path) -> None:
    """Nothing, half a line, and a letter now and then: closed in time, and others are served."""
    with served(tiny, DIFFEDIT_SERVE_UPLOAD_SECONDS="0.5") as server:
        for sent in (b"", b"GET /livez HT", b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-A: "):
            with socket.create_connection(("127.0.0.1", server.port), timeout=10) as line:
                began = time.monotonic()
                line.sendall(sent)
                line.settimeout(0.1)
                answer = b""
                while time.monotonic() - began < 5:
                    try:
                        if not (more := line.recv(1000)):
                            break
                        answer += more
                    except TimeoutError:
                        line.sendall(b"a" if sent else b"")  # a letter now and then
                assert answer.startswith(b"HTTP/1.1 408 ")
                assert 0.4 < time.monotonic() - began < 3
        with httpx.Client(base_url=server.url) as client:  # one connection, longer than that
            for _ in range(3):
                assert client.get("/livez").status_code == 200
                time.sleep(0.4)
