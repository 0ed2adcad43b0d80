"""Two servers behind HAProxy (deploy/haproxy.cfg): each is replaced, and no request is refused."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2 as httpx
import numpy as np
import pytest
from PIL import Image

from tests.server.conftest import MakeServer
from tests.server.helpers import FAST, ROOT, encoded, free_port, image_bytes, wait_until

EDITS, MASKS = "/v1/images/edits", "/v1/masks"
CHEAP = {**FAST, "num_inference_steps": "1", "num_maps_per_mask": "1"}
REQUESTS, CLIENTS = 1000, 6
LARGE = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (160, 200, 3), np.uint8)))
"""A photograph of several of HAProxy's buffers."""


def test_edits_are_accepted_for_a_while_after_sigterm(make_server: MakeServer) -> None:
    server = make_server(drain_delay_seconds=2, linger_seconds=30)
    assert "connection" not in server.get("/readyz").headers
    server.call_soon(lambda: server.server.handle_exit(signal.SIGTERM, None))
    ready = wait_until(
        lambda: found if (found := server.get("/readyz")).status_code == 503 else None, "not ready"
    )
    assert ready is not None and ready.headers["connection"] == "close"
    edit = server.post(EDITS, CHEAP)
    assert (edit.status_code, edit.headers["connection"]) == (200, "close")
    assert server.metric("diffedit_ready") == 0
    scheduler = server.app.state.scheduler
    wait_until(lambda: scheduler.draining, "the delay is over")
    late = server.post(EDITS, CHEAP)
    assert (late.status_code, late.json()["error"]["code"]) == (503, "draining")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_a_second_signal_do_not_wait(number: int, make_server: MakeServer) -> None:
    server = make_server(drain_delay_seconds=60, linger_seconds=0)
    scheduler = server.app.state.scheduler
    signals = 1 if number == signal.SIGINT else 2
    for _ in range(signals):
        server.call_soon(lambda: server.server.handle_exit(number, None))
    wait_until(lambda: scheduler.draining, "new edits are refused")
    wait_until(lambda: server.server.should_exit, "the server ends", 10)


@dataclass(frozen=True)
class Backend:
    """One of the two servers: its port, and the process that serves it now."""

    port: int
    log: Path

    def start(self, tiny: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "demo.fake_server", "--model", str(tiny)]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*command, "--call-ms", "1", "--port", str(self.port)],
                cwd=ROOT,
                env={**os.environ, "DIFFEDIT_SERVE_DRAIN_DELAY_SECONDS": "5"},
                stderr=log,
            )


def kill(*processes: subprocess.Popen[bytes]) -> None:
    for process in processes:
        process.kill()
        process.wait()


@dataclass(frozen=True)
class Proxy:
    """HAProxy: its address, and the socket that it reports on."""

    url: str
    socket: Path

    def servers_up(self) -> int:
        """How many servers HAProxy sends requests to."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.socket))
            connection.sendall(b"show stat\n")
            text = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
        names, *rows = [line.split(",") for line in text.splitlines() if line]
        found = [dict(zip(names, row, strict=False)) for row in rows]
        return sum(row["svname"] in "ab" and row["status"].startswith("UP") for row in found)


@contextmanager
def haproxy(ports: list[int], folder: Path) -> Iterator[Proxy]:
    """HAProxy with deploy/haproxy.cfg; only addresses differ, and there is no TLS."""
    program = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        pytest.skip("needs haproxy")
    port, stats = free_port(), folder / "admin.sock"
    text = (ROOT / "deploy" / "haproxy.cfg").read_text()
    changes = {
        r"bind :443 .*": f"bind 127.0.0.1:{port}",
        r".*bind :80\n": "",
        r".*redirect scheme https .*\n": "",
        r"/run/haproxy/admin.sock mode 600 level admin": f"{stats} mode 600 level admin",
        r"127\.0\.0\.1:8001 ": f"127.0.0.1:{ports[0]} ",
        r"127\.0\.0\.1:8002 ": f"127.0.0.1:{ports[1]} ",
    }
    for pattern, new in changes.items():
        text, count = re.subn(pattern, new, text)
        assert count == 1, pattern
    (folder / "haproxy.cfg").write_text(text)
    command = [program, "-db", "-f", str(folder / "haproxy.cfg")]
    with (folder / "haproxy.log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log, stdout=log)
    try:
        wait_until(lambda: stats.exists() or process.poll() is not None, "HAProxy has started")
        assert process.poll() is None, (folder / "haproxy.log").read_text()
        yield Proxy(f"http://127.0.0.1:{port}", stats)
    finally:
        kill(process)


@contextmanager
def traffic(url: str, count: int) -> Iterator[Counter[str]]:
    """Clients that send requests until the block has ended and `count` were answered.

    Yields the number of answers by kind; a refused connection counts as one.
    """
    answers, stop, lock = Counter[str](), threading.Event(), threading.Lock()

    def client(number: int) -> None:
        headers = {"Authorization": f"Bearer key-{number}"} if number % 2 else {}
        image = LARGE if number % 3 == 0 else image_bytes()
        with httpx.Client(base_url=url, timeout=60, headers=headers) as http:
            while not stop.is_set() or answers.total() < count:
                path = MASKS if number % 2 else EDITS
                try:
                    answer = http.post(path, data=CHEAP, files={"image": ("a.png", image)})
                    found = "200" if answer.status_code == 200 else answer.text[:120]
                except httpx.TransportError as error:
                    found = type(error).__name__
                with lock:
                    answers[found] += 1

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(client, number) for number in range(CLIENTS)]
        try:
            yield answers
        finally:
            stop.set()
    for future in clients:
        future.result()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_request_is_refused_while_both_servers_are_replaced(tiny: Path, tmp_path: Path) -> None:
    backends = [Backend(free_port(), tmp_path / name) for name in "ab"]
    with ExitStack() as stack:
        proxy = stack.enter_context(haproxy([backend.port for backend in backends], tmp_path))
        processes = [backend.start(tiny) for backend in backends]
        stack.callback(lambda: kill(*processes))
        wait_until(lambda: proxy.servers_up() == 2, "both servers are ready", 180)
        with traffic(proxy.url, REQUESTS) as answers:
            for number, backend in enumerate(backends):
                time.sleep(1)
                before = answers.total()
                processes[number].send_signal(signal.SIGTERM)
                assert processes[number].wait(60) == 0
                assert answers.total() > before, "the other server answers meanwhile"
                processes[number] = backend.start(tiny)
                wait_until(lambda: proxy.servers_up() == 2, "both are ready again", 180)
        assert set(answers) == {"200"}, answers
        assert answers.total() >= REQUESTS
