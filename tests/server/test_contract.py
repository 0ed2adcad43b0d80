"""The server against its OpenAPI document: generated requests, valid and invalid, over HTTP.

The server runs in a separate process, on fake networks. DIFFEDIT_CONTRACT_CASES sets the number
of requests (500) and DIFFEDIT_CONTRACT_SEED the seed (0). `make contract` sends 10,000 and prints a
summary.
"""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the server extra")

import schemathesis
from schemathesis import GenerationMode

from diffedit.server.form_fields import OUTPUT_FORMATS
from tests.server.contract import MODES, Trial, files
from tests.server.helpers import FAST, ServerProcess, image_bytes, run_server, wait_until

CASES = int(os.environ.get("DIFFEDIT_CONTRACT_CASES", "500"))
SHARES = {
    "POST /v1/images/edits": 0.30,
    "POST /v1/jobs": 0.24,
    "POST /v1/masks": 0.18,
    "POST /v1/masks/{mask_id}": 0.02,
    "GET /v1/jobs/{job_id}": 0.05,
    "GET /v1/jobs/{job_id}/events": 0.05,
    "GET /v1/jobs/{job_id}/image": 0.06,
    "GET /v1/jobs/{job_id}/mask": 0.06,
    "DELETE /v1/jobs/{job_id}": 0.04,
}
"""Fraction of the requests per operation. Operations without parameters are tried once."""
SUCCESS = {"POST /v1/images/edits": 200, "POST /v1/jobs": 202, "POST /v1/masks": 200}
LIMITS = {"DIFFEDIT_SERVE_REQUEST_SECONDS": "2"}  # refuses expensive edits


def create_jobs(server: ServerProcess) -> list[str]:
    """Create a job that succeeds, one that fails and one that is cancelled; return their ids."""

    def submit(image: bytes, **fields: str) -> str:
        response = server.post("/v1/jobs", {**FAST, **fields}, image)
        assert response.status_code == 202, response.text
        return str(response.json()["id"])

    succeeded, failed = submit(image_bytes(), n="2"), submit(image_bytes()[:900])
    for job in (succeeded, failed):
        server.get(f"/v1/jobs/{job}/events")  # ends with the job
    cancelled = submit(image_bytes(), num_inference_steps="150")  # within the limit when busy
    server.delete(f"/v1/jobs/{cancelled}")
    jobs = [succeeded, failed, cancelled]
    states = [server.get(f"/v1/jobs/{job}").json()["state"] for job in jobs]
    assert states == ["succeeded", "failed", "cancelled"]
    return jobs


def is_idle(server: ServerProcess) -> bool:
    return server.metric("diffedit_jobs_active") == server.metric("diffedit_jobs_waiting") == 0


@pytest.mark.slow
@pytest.mark.timeout(max(900, CASES))
def test_server_conforms_to_its_openapi_document(tiny: Path) -> None:
    for file_format in OUTPUT_FORMATS:
        schemathesis.openapi.media_type(f"image/{file_format}", files(file_format.upper()))
    with run_server(tiny, "--call-ms", "1", **LIMITS) as server:
        trial = Trial(server.url)
        trial.jobs += create_jobs(server)
        began = time.monotonic()
        for operation in trial.operations:
            cases = max(1, int(CASES * SHARES.get(operation.label, 0)))
            modes = list(MODES) if operation.body or operation.query else [GenerationMode.POSITIVE]
            for mode in modes:
                trial.run(operation, mode, math.ceil(cases / len(modes)))
        print(f"\n{trial}\n  {time.monotonic() - began:.0f} s")
        wait_until(lambda: is_idle(server), "no job is left")
        ready = server.get("/readyz").status_code
        server.terminate()
        assert (ready, server.wait()) == (200, 0)
        assert "Traceback" not in server.log()
    assert not trial.failures, "\n".join(trial.failures.values())
    assert trial.count() >= 0.9 * CASES
    for label, status in SUCCESS.items():
        sent = trial.count(label=label, mode="valid")
        assert trial.count(status, label=label, mode="valid") > sent / 3, f"{label} rarely succeeds"
