"""A server in its own process, and an HTTP client for it."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.picture import still_life
from engine.errors import DiffEditError

_LOCAL = threading.local()
_CLIENTS: list[Any] = []


@dataclass(frozen=True)
class Server:
    """A running server."""

    url: str
    process: subprocess.Popen[bytes]
    call_seconds: float

    @property
    def memory_mib(self) -> float:
        """Resident memory of its process."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def photo(side: int, form: str) -> bytes:
    """A square photograph as a file."""
    buffer = io.BytesIO()
    still_life(side, side).save(buffer, form)
    return buffer.getvalue()


def http() -> Any:
    """The HTTP client of this thread."""
    import httpx2

    client = getattr(_LOCAL, "client", None)
    if client is None or client.is_closed:
        client = _LOCAL.client = httpx2.Client(timeout=120)
        _CLIENTS.append(client)
    return client


def post(server: Server, image: bytes, form: dict[str, str], path: str = "images/edits") -> Any:
    """One request; returns the response of any status."""
    return http().post(f"{server.url}/v1/{path}", files={"image": ("a", image)}, data=form)


def edit(server: Server, image: bytes, **form: str) -> Any:
    """One edit. Raises DiffEditError unless it succeeds."""
    answer = post(server, image, form)
    if answer.status_code != 200:
        raise DiffEditError(f"An edit was answered {answer.status_code}: {answer.text[:200]}")
    return answer.json()


def start(server: Server, image: bytes, **form: str) -> str:
    """Start a job; returns its id."""
    job: str = post(server, image, form, "jobs").json()["id"]
    return job


def state(server: Server, job: str) -> Any:
    """The state of a job."""
    return http().get(f"{server.url}/v1/jobs/{job}").json()


@contextmanager
def start_server(
    model: Path, call_ms: float, faults: Sequence[str], real: list[str] | None
) -> Iterator[Server]:
    """A server that is ready, on fake networks or with the options in `real`; killed at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "diffedit.cli", "serve", *(real or ())]
    if real is None:
        command = [sys.executable, "-m", "demo.fake_server", "--model", str(model)]
        command += ["--call-ms", str(call_ms), *faults]
    limits = {"DIFFEDIT_SERVE_MAX_QUEUE_SECONDS": "2", "DIFFEDIT_SERVE_MAX_UPLOADS": "64"}
    process = subprocess.Popen(
        [*command, "--port", str(port)],
        env={**os.environ, **limits, "OMP_NUM_THREADS": "1"} if real is None else None,
        stderr=subprocess.DEVNULL,
    )
    server = Server(f"http://127.0.0.1:{port}", process, call_ms / 1000)
    try:
        _wait_until_ready(server)
        yield server
    finally:
        process.kill()
        process.wait()
        while _CLIENTS:
            _CLIENTS.pop().close()


def _wait_until_ready(server: Server) -> None:
    import httpx2

    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise DiffEditError(f"The server ended with {server.process.returncode} at its start.")
        try:
            if http().get(f"{server.url}/readyz").status_code == 200:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.05)
    raise DiffEditError("The server was not ready after 300 s.")
