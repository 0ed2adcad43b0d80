"""A server in its own process, with an HTTP client for it."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.workload import NOTHING_FOUND
from demo.picture import still_life
from engine.errors import DiffEditError

LIMITS = {"DIFFEDIT_SERVE_MAX_QUEUE_SECONDS": "2", "DIFFEDIT_SERVE_MAX_UPLOADS": "64"}


@dataclass(frozen=True)
class Server:
    """A running server; threads may share its client.

    Attributes:
        form: fields of every request, unless the request has others.
    """

    url: str
    process: subprocess.Popen[bytes]
    http: Any
    form: Mapping[str, str] = field(default_factory=dict)

    @property
    def memory_mib(self) -> float:
        """Resident memory of its process."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    @property
    def processor_seconds(self) -> float:
        """Processor time of its process so far, of all threads (Linux)."""
        clock = (~self.process.pid << 3) | 2  # as `clock_getcpuclockid` in the C library makes it
        return time.clock_gettime(clock)

    def post(
        self, image: bytes, form: dict[str, str], path: str = "images/edits", key: str = ""
    ) -> Any:
        """One request; returns the response of any status."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        files = {"image": ("a", image)}
        data = {**self.form, **form}
        return self.http.post(f"/v1/{path}", files=files, data=data, headers=headers)

    def edit(self, image: bytes, form: dict[str, str]) -> Any:
        """One edit. Raises DiffEditError unless it succeeds and finds something to edit."""
        answer = self.post(image, form)
        if answer.status_code != 200:
            raise DiffEditError(f"An edit was answered {answer.status_code}: {answer.text[:200]}")
        found = answer.json()
        if not all(one["mask_share"] for one in found["data"]):
            raise DiffEditError(NOTHING_FOUND)
        return found


def photo(side: int, form: str) -> bytes:
    """A square photograph as a file."""
    buffer = io.BytesIO()
    still_life(side, side).save(buffer, form)
    return buffer.getvalue()


@contextmanager
def start_server(
    model: Path,
    call_ms: float | None,
    faults: Sequence[str] = (),
    settings: Mapping[str, str] = {},
    form: Mapping[str, str] = {},
) -> Iterator[Server]:
    """A server that is ready; killed at the end.

    Args:
        model: the checkpoint's folder.
        call_ms: duration of a call of the fake networks; None runs the model.
        faults: more options of `demo.fake_server`.
        settings: of the server, by their names in capitals.
        form: fields of every request.
    """
    import httpx2

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    if call_ms is None:
        module, environment = ["diffedit.cli", "serve"], {}
    else:
        module = ["demo.fake_server", "--call-ms", str(call_ms), *faults]
        environment = {**LIMITS, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *module, "--model", str(model), "--port", str(port)]
    environment |= {f"DIFFEDIT_SERVE_{name}": value for name, value in settings.items()}
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    try:
        # The server closes idle connections after 5 s, perhaps while a request is on its way.
        limits = httpx2.Limits(max_connections=None, keepalive_expiry=1.0)
        with httpx2.Client(base_url=url, timeout=120, limits=limits) as http:
            server = Server(url, process, http, form)
            _wait_until_ready(server)
            yield server
    finally:
        process.kill()
        process.wait()


def _wait_until_ready(server: Server) -> None:
    import httpx2

    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise DiffEditError(f"The server ended with {server.process.returncode} at its start.")
        try:
            if server.http.get("/readyz").status_code == 200:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.05)
    raise DiffEditError("The server was not ready after 300 s.")
