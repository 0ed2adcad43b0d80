"""What the server's tests share: pictures, texts, and a fake server in a process of its own."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
from PIL import Image

from demo.picture import still_life

ROOT = Path(__file__).resolve().parents[2]
TEXTS = {"prompt": "a red ball on a table", "source_prompt": "a blue ball on a table"}
FAST = {**TEXTS, "num_inference_steps": "5", "num_maps_per_mask": "2"}


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    """A picture as a file's contents."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def picture(width: int = 96, height: int = 72) -> bytes:
    """A small photograph as PNG."""
    return encoded(still_life(width, height))


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Process:
    """A fake server in a process of its own."""

    def __init__(self, tiny: Path, *arguments: str, **environment: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "demo.fake_server", "--model", str(tiny)]
        self.process = subprocess.Popen(
            [*command, "--port", str(self.port), *arguments],
            cwd=ROOT,
            env={**os.environ, **environment},
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{self.url}/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                assert self.process.poll() is None, self.process.communicate()[1]
            time.sleep(0.05)
        raise AssertionError("the server did not get ready")

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float = 20) -> int:
        return self.process.wait(seconds)


@contextmanager
def served(tiny: Path, *arguments: str, **environment: str) -> Iterator[Process]:
    """A fake server for the length of a block; killed at its end if it is still there."""
    server = Process(tiny, *arguments, **environment)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.communicate()
