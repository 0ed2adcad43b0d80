"""The HTTP server with the model: 1 and 8 clients, four times the load, cancelling, SIGTERM."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

from benchmarks.gpu_check.setup import Found, Setup
from benchmarks.schema import NotRun
from benchmarks.serving import serving

NEEDED = ("fastapi", "httpx2", "multipart", "prometheus_client", "sse_starlette", "uvicorn")
SECONDS = 10


def server(setup: Setup) -> Found:
    """`serving --real` with the model."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        reason = f"{', '.join(missing)} cannot be imported (the extras server and dev)"
        return Found(not_run=(NotRun("server", reason),))
    seconds = 1 if setup.rehearse else SECONDS
    result = serving(setup.model, real=True, seconds=seconds, threshold=setup.threshold)
    found = Found.of(result)
    return replace(found, checks=()) if setup.rehearse else found
