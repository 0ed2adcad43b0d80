"""Jobs, edits and processes of a server with replicas."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx2 as httpx

from demo.picture import still_life
from tests.server.helpers import FAST, ServerProcess, encoded, wait_until

EDITS, JOBS = "/v1/images/edits", "/v1/jobs"


def numbered_image(number: int) -> bytes:
    """A different image for each number."""
    return encoded(still_life(96, 72 + 8 * number))


def post(server: ServerProcess, path: str, number: int = 0, **fields: str) -> httpx.Response:
    return server.post(path, {**FAST, **fields}, numbered_image(number))


def submit(server: ServerProcess, number: int = 0, **fields: str) -> str:
    """Create a job and return its id."""
    response = post(server, JOBS, number, **fields)
    assert response.status_code == 202, response.text
    job_id: str = response.json()["id"]
    return job_id


def finished(server: ServerProcess, job_id: str) -> dict[str, Any]:
    """Wait for a job and return its state."""

    def state() -> dict[str, Any] | None:
        body: dict[str, Any] = server.get(f"{JOBS}/{job_id}").json()
        return body if body.get("data") else None

    result = wait_until(state, "the job has finished")
    assert result is not None
    return result


def replica_pids() -> list[int]:
    """Process ids of the replicas."""
    done = subprocess.run(["ps", "-eo", "pid=,args="], capture_output=True, text=True, check=True)
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    prefix = "ray::ServeReplica:diffedit:replica"
    return [int(pid) for pid, command in lines if command.startswith(prefix)]


def wait_for_replicas(count: int) -> list[int]:
    """Wait until this many replica processes exist, and return their ids."""
    return wait_until(
        lambda: pids if len(pids := replica_pids()) == count else [], f"{count} replicas run"
    )


@contextmanager
def continuous_edits(server: ServerProcess, images: int) -> Iterator[list[httpx.Response]]:
    """Six clients that send edits until the end of the block. Yields the growing responses."""
    stop, responses = threading.Event(), list[httpx.Response]()

    def client(number: int) -> None:
        while not stop.is_set():
            responses.append(post(server, EDITS, number % images, seed=str(number)))

    with ThreadPoolExecutor(6) as pool:
        clients = [pool.submit(client, number) for number in range(6)]
        try:
            yield responses
        finally:
            stop.set()
    for future in clients:
        future.result()
