"""Build the ASGI application from its parts. It loads the model at startup."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartParser

import diffedit
from diffedit.pipeline import DiffEditPipeline
from diffedit.server import schema
from diffedit.server.access_log import AccessLog
from diffedit.server.auth import AuthMiddleware
from diffedit.server.engine_host import EngineHost
from diffedit.server.errors import ApiError, to_api_error
from diffedit.server.key_file import CHECK_SECONDS, KeyFile
from diffedit.server.metrics import Metrics
from diffedit.server.routes import Routes
from diffedit.server.scheduler import Scheduler
from diffedit.server.settings import Settings
from diffedit.server.uploads import Uploads
from engine.errors import DiffEditError

log = logging.getLogger(__name__)

SWEEP_SECONDS = 5.0
"""Interval between two removals of expired jobs."""

DESCRIPTION: dict[str, Any] = {
    "title": "diffedit-trt",
    "version": diffedit.__version__,
    "summary": "Text-guided image editing that keeps every pixel outside the mask.",
}
"""Of the API, in its OpenAPI document."""

HTTP_ERRORS = {
    404: ("not_found", "This path does not exist; see /docs for the API."),
    405: ("method_not_allowed", "This path does not support the method; see /docs."),
    413: ("too_large", "The request body is too large; send a smaller image."),
}
"""Code and message of errors that the framework raises."""


def create_app(
    open_pipeline: Callable[[], DiffEditPipeline],
    model: str,
    settings: Settings | None = None,
    *,
    replica_name: str | None = None,
) -> FastAPI:
    """Create the ASGI application for one pipeline.

    The application accepts connections while the model is still loading, and answers edits with 503
    until it is ready. `app.state` holds `engine_host`, `scheduler`, `metrics`, `settings` and, if
    there is a key file, `keys`.

    Args:
        open_pipeline: opens the pipeline. Called in a thread, at startup and after each unload.
        model: the name the model is served under.
        settings: limits and timeouts.
        replica_name: for one of several replicas: the prefix of its job ids. The gateway
            (`diffedit.server.gateway`) then checks keys, host names and origins.

    Raises DiffEditError if the key file is not usable.
    """
    settings = settings or Settings()
    # Keep uploads in memory: their size is limited, and files on disk might outlive the request.
    MultiPartParser.spool_max_size = max(MultiPartParser.spool_max_size, settings.max_body_bytes)
    engine_host = EngineHost(open_pipeline, model, settings)
    scheduler = Scheduler(engine_host, settings, replica_name)
    uploads = Uploads(settings)
    keys = KeyFile(settings.api_keys) if settings.api_keys and replica_name is None else None
    if keys is not None:
        scheduler.slots.several_owners = lambda: len(keys.names) > 1
    metrics = Metrics(engine_host, scheduler, uploads)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine_host.start()
        tasks = [asyncio.create_task(_regularly(SWEEP_SECONDS, scheduler.store.sweep))]
        if keys is not None:
            tasks.append(asyncio.create_task(_regularly(CHECK_SECONDS, keys.refresh)))
        yield
        for task in tasks:
            task.cancel()
        # The server has drained already, unless a second signal interrupted it.
        await scheduler.drain(0 if scheduler.draining else settings.drain_seconds)
        await engine_host.stop()
        scheduler.runner.close()

    app = FastAPI(**DESCRIPTION, lifespan=lifespan, openapi_url=None)
    app.state.engine_host, app.state.scheduler = engine_host, scheduler
    app.state.metrics, app.state.settings, app.state.keys = metrics, settings, keys
    app.openapi = lambda: schema.openapi_document(app)  # type: ignore[method-assign]
    app.include_router(Routes(engine_host, scheduler, metrics, uploads, settings).router())
    _handle_errors(app)
    if replica_name is None:
        app.add_middleware(AuthMiddleware, settings=settings, keys=keys)
    app.add_middleware(
        AccessLog,
        observe_response=metrics.observe_response,
        observe_error=metrics.observe_error,
        is_leaving=lambda: scheduler.leaving and replica_name is None,
    )
    return app


async def _regularly(seconds: float, call: Callable[[], None]) -> None:
    """Run a short call at an interval, even if no request arrives."""
    while True:
        await asyncio.sleep(seconds)
        call()


def _handle_errors(app: FastAPI) -> None:
    """Return every error in the format of the API."""
    app.add_exception_handler(ApiError, _known_error)
    app.add_exception_handler(DiffEditError, _known_error)
    app.add_exception_handler(RequestValidationError, _invalid_parameter)
    app.add_exception_handler(HTTPException, _http_error)


async def _known_error(request: Request, error: Exception) -> Response:
    return to_api_error(error).response()


async def _invalid_parameter(request: Request, error: Exception) -> Response:
    """A path or query parameter that FastAPI refused."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = str(first["loc"][-1])
    value, kind = str(first["input"])[:40], first["type"]
    allowed = "a whole number" if kind.startswith("int") else "valid"
    message = f"{name} is {value!r}, but must be {allowed}; correct it."
    return ApiError(400, "invalid_value", message, name).response()


async def _http_error(request: Request, error: Exception) -> Response:
    """An error that FastAPI or Starlette raised."""
    assert isinstance(error, HTTPException)
    unreadable = ("malformed", f"The request cannot be parsed: {error.detail}.")
    code, message = HTTP_ERRORS.get(error.status_code, unreadable)
    headers = dict(error.headers or {})
    return ApiError(error.status_code, code, message, headers=headers).response()
