"""Images, forms, waiting for conditions, and a fake server in a separate process."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

import httpx2 as httpx
from PIL import Image

from demo.picture import still_life

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = {"prompt": "a red ball on a table", "source_prompt": "a blue ball on a table"}
FAST = {**PROMPTS, "preset": "paper", "num_inference_steps": "5", "num_maps_per_mask": "2"}
"""A form that takes 15 network calls at most, and does not clean the mask of fake networks away."""
SLOW = {**FAST, "num_inference_steps": "1000", "strength": "1"}
"""A form that takes 2,000 network calls: it never finishes within a test."""
DEADLINE_SECONDS = 120.0
"""Far more than any wait needs; a test that reaches it has failed."""

T = TypeVar("T")


def wait_until(
    condition: Callable[[], T], description: str, seconds: float = DEADLINE_SECONDS
) -> T:
    """Poll a condition and return its first true value. Fails at the deadline."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {description}"
        time.sleep(0.02)
    return value


def encoded(image: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    """Encode an image as a file's contents."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def image_bytes(width: int = 96, height: int = 72) -> bytes:
    """A small photograph as PNG."""
    return encoded(still_life(width, height))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RunningServer:
    """A server on a port of this machine.

    Attributes:
        port: of 127.0.0.1.
        url: without a path.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", **{"timeout": DEADLINE_SECONDS, **options})

    def delete(self, path: str) -> httpx.Response:
        return httpx.delete(f"{self.url}{path}", timeout=DEADLINE_SECONDS)

    def post(
        self, path: str, form: dict[str, str], image: bytes | None = None, **headers: str
    ) -> httpx.Response:
        """Send a form with an image."""
        return httpx.post(
            f"{self.url}{path}",
            files={"image": ("a.png", image_bytes() if image is None else image)},
            data=form,
            headers=headers,
            timeout=DEADLINE_SECONDS,
        )

    def send(self, request: bytes) -> bytes:
        """Send the bytes of a request, and return the first bytes of the response."""
        with self.connect() as connection:
            connection.sendall(request)
            return connection.recv(65536)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), DEADLINE_SECONDS)

    @contextmanager
    def open_post(self, path: str, form: dict[str, str], **headers: str) -> Iterator[socket.socket]:
        """Send a form and do not wait for the response. Disconnects at the end of the block."""
        files = {"image": ("a.png", image_bytes())}
        url = f"{self.url}{path}"
        request = httpx.Request("POST", url, files=files, data=form, headers=headers)
        body = request.read()
        lines = [f"POST {path} HTTP/1.1", *(f"{k}: {v}" for k, v in request.headers.items())]
        with self.connect() as connection:
            connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
            yield connection

    def metric(self, name: str) -> float:
        """Sum the samples whose line begins with `name`; 0 if there are none."""
        lines = self.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    def wait_for_jobs(self, running: int, waiting: int = 0) -> None:
        """Wait until exactly this many jobs are running, and this many in the queue."""

        def now() -> tuple[float, float]:
            return self.metric("diffedit_jobs_active"), self.metric("diffedit_jobs_waiting")

        wait_until(lambda: now() == (running, waiting), f"{running} jobs run, {waiting} wait")


class LiveServer(RunningServer):
    """A server in a thread of this process.

    Attributes:
        app: the application.
        server: uvicorn's server.
    """

    def __init__(self, app: Any, server: Any, port: int) -> None:
        super().__init__(port)
        self.app, self.server = app, server

    def ready(self) -> bool:
        """Whether the readiness probe succeeds."""
        try:
            return self.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def call_soon(self, call: Callable[[], object]) -> None:
        """Run a call on the server's event loop."""
        self.server._loop.call_soon_threadsafe(call)


class ServerProcess(RunningServer):
    """A fake server in a separate process.

    The log goes to a file, since a pipe that nobody reads blocks the server when it is full.
    """

    def __init__(
        self, tiny: Path, log_file: IO[bytes], *arguments: str, **environment: str
    ) -> None:
        super().__init__(free_port())
        command = [sys.executable, "-m", "demo.fake_server", "--model", str(tiny)]
        self._log_file = log_file.fileno()
        self.process = subprocess.Popen(
            [*command, "--port", str(self.port), *arguments],
            cwd=ROOT,
            env={**os.environ, **environment},
            stderr=self._log_file,
        )

    def wait_until_ready(self) -> None:
        wait_until(self._ready, "the server is ready", 180)

    def _ready(self) -> bool:
        try:
            return self.get("/readyz").status_code == 200
        except httpx.TransportError:
            assert self.process.poll() is None, self.log()
            return False

    def log(self) -> str:
        """Return what the server has logged so far."""
        size = os.fstat(self._log_file).st_size
        return os.pread(self._log_file, size, 0).decode(errors="replace")

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait_until_draining(self) -> None:
        wait_until(lambda: self.get("/readyz").status_code == 503, "the server drains")

    def wait(self) -> int:
        """Wait for the process to end and return its exit code."""
        return self.process.wait(DEADLINE_SECONDS)


@contextmanager
def run_server(tiny: Path, *arguments: str, **environment: str) -> Iterator[ServerProcess]:
    """A fake server for the length of a block; killed at the end."""
    with tempfile.TemporaryFile() as log_file:
        server = ServerProcess(tiny, log_file, *arguments, **environment)
        try:
            server.wait_until_ready()
            yield server
        finally:
            server.process.kill()
            server.process.wait()
