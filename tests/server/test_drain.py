"""SIGTERM to a real process whose edits do not finish in time: every client gets a response."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.server.helpers import SLOW, run_server

pytestmark = pytest.mark.slow

EDITS, JOBS = "/v1/images/edits", "/v1/jobs"
LIMITS = {
    "DIFFEDIT_SERVE_DRAIN_SECONDS": "0.5",
    "DIFFEDIT_SERVE_LINGER_SECONDS": "2",
    "DIFFEDIT_SERVE_MAX_ACTIVE": "2",
    "DIFFEDIT_SERVE_MAX_QUEUE_SECONDS": "100000",
}


def test_edits_that_run_out_of_time_are_answered_with_draining(tiny: Path) -> None:
    with run_server(tiny, "--call-ms", "20", **LIMITS) as server, ThreadPoolExecutor(4) as pool:
        running = [pool.submit(server.post, EDITS, SLOW) for _ in range(2)]
        server.wait_for_jobs(2)
        queued = pool.submit(server.post, EDITS, SLOW)
        stream = pool.submit(server.post, EDITS, {**SLOW, "stream": "true"})
        job = server.post(JOBS, SLOW).json()["id"]
        server.wait_for_jobs(2, waiting=3)  # later ones would be refused instead of ended
        server.terminate()
        for response in (*(future.result() for future in running), queued.result()):
            assert response.status_code == 503
            assert response.json()["error"]["code"] == "draining"
            assert int(response.headers["retry-after"]) >= 1
        events = stream.result().text.split("\r\n\r\n")
        (error,) = [event for event in events if event.startswith("event: error")]
        assert json.loads(error.split("data: ")[1])["error"]["code"] == "draining"
        state = server.get(f"{JOBS}/{job}").json()
        assert (state["state"], state["error"]["code"]) == ("failed", "draining")
        assert server.wait() == 0
        for words in ("never retrieved", "Traceback", "was destroyed"):
            assert words not in server.log()
