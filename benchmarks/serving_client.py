"""A server in a process of its own, and a client that talks to it."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.picture import still_life
from engine.errors import DiffEditError

_LOCAL = threading.local()


@dataclass(frozen=True)
class Served:
    """A server under test."""

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
    """The HTTP client, one for each thread's calls."""
    import httpx2

    if not hasattr(_LOCAL, "client"):
        _LOCAL.client = httpx2.Client(timeout=120)
    return _LOCAL.client


def post(served: Served, image: bytes, form: dict[str, str], path: str = "images/edits") -> Any:
    """One request, whatever its answer."""
    return http().post(f"{served.url}/v1/{path}", files={"image": ("a", image)}, data=form)


def edit(served: Served, image: bytes, **form: str) -> Any:
    """One edit that has to succeed."""
    answer = post(served, image, form)
    if answer.status_code != 200:
        raise DiffEditError(f"an edit was answered {answer.status_code}: {answer.text[:200]}")
    return answer.json()


def start(served: Served, image: bytes, **form: str) -> str:
    """A job's id."""
    job: str = post(served, image, form, "jobs").json()["id"]
    return job


def state(served: Served, job: str) -> Any:
    """Where a job stands."""
    return http().get(f"{served.url}/v1/jobs/{job}").json()


@contextmanager
def server(
    model: Path, call_ms: float, options: tuple[str, ...], real: list[str] | None
) -> Iterator[Served]:
    """A server that is ready, ended afterwards."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "diffedit.cli", "serve", *(real or ())]
    if real is None:
        command = [sys.executable, "-m", "demo.fake_server", "--model", str(model)]
        command += ["--call-ms", str(call_ms), *options]
    limits = {"DIFFEDIT_SERVE_MAX_QUEUE_SECONDS": "2", "DIFFEDIT_SERVE_MAX_UPLOADS": "64"}
    process = subprocess.Popen(
        [*command, "--port", str(port)],
        env={**os.environ, **limits, "OMP_NUM_THREADS": "1"} if real is None else None,
        stderr=subprocess.DEVNULL,
    )
    served = Served(f"http://127.0.0.1:{port}", process, call_ms / 1000)
    try:
        _wait_until_ready(served)
        yield served
    finally:
        process.kill()
        process.wait()


def _wait_until_ready(served: Served) -> None:
    import httpx2

    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if served.process.poll() is not None:
            raise DiffEditError(f"the server ended with {served.process.returncode} at its start.")
        try:
            if http().get(f"{served.url}/readyz").status_code == 200:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.05)
    raise DiffEditError("the server did not get ready within 300 s.")
