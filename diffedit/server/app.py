"""The application: every part made once and put together. It opens the model when it starts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartParser

import diffedit
from diffedit.pipeline import DiffEditPipeline
from diffedit.server import schema
from diffedit.server.access_log import AccessLog
from diffedit.server.auth import ApiKeys, AuthMiddleware
from diffedit.server.engine_host import EngineHost
from diffedit.server.errors import ApiError, api_error
from diffedit.server.metrics import Metrics
from diffedit.server.routes import Routes
from diffedit.server.scheduler import Scheduler
from diffedit.server.settings import Settings
from engine.errors import DiffEditError

log = logging.getLogger(__name__)

SWEEP_SECONDS = 5.0


def create_app(
    open_pipeline: Callable[[], DiffEditPipeline],
    model: str,
    settings: Settings | None = None,
    *,
    name: str | None = None,
) -> FastAPI:
    """The ASGI application around one pipeline.

    Args:
        open_pipeline: opens it, in a thread; called at the start and after each unloading.
        model: the name it is served under.
        name: this server's own among several behind one front, which its jobs' ids begin with. The
            front is then the door (`diffedit.server.gateway`), and nothing is checked here twice.

    Raises DiffEditError where the key file cannot be used.

    It listens while the model is still being opened, and says so. `app.state.scheduler`,
    `app.state.engine_host` and `app.state.metrics` are there for whoever runs it.
    """
    settings = settings or Settings()
    engine_host = EngineHost(open_pipeline, model, settings)
    scheduler = Scheduler(engine_host, settings, name)
    # Pictures of strangers stay in memory: bodies are bounded, and a disk would outlive them.
    MultiPartParser.spool_max_size = max(MultiPartParser.spool_max_size, settings.max_body_bytes)
    metrics = Metrics(engine_host, scheduler)
    keys = ApiKeys.read(settings.api_keys) if settings.api_keys and name is None else None

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine_host.start()
        sweeper = asyncio.create_task(_sweep(scheduler))
        yield
        sweeper.cancel()
        await scheduler.drain(
            0 if scheduler.draining else settings.drain_seconds
        )  # or told a second time
        await engine_host.stop()
        scheduler.pool.shutdown(wait=False, cancel_futures=True)

    app = FastAPI(
        title="diffedit-trt",
        version=diffedit.__version__,
        summary="Edit a photograph by saying what is there and what should be there.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.engine_host, app.state.scheduler, app.state.settings = (
        engine_host,
        scheduler,
        settings,
    )
    app.state.metrics = metrics
    app.openapi = lambda: schema.described(app)  # type: ignore[method-assign]
    app.include_router(Routes(engine_host, scheduler, metrics, settings).router())
    app.add_exception_handler(ApiError, _known)
    app.add_exception_handler(DiffEditError, _known)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    if name is None:
        app.add_middleware(AuthMiddleware, settings=settings, keys=keys)
    app.add_middleware(AccessLog, seen=metrics.http)
    return app


async def _sweep(scheduler: Scheduler) -> None:
    """Results go when their time is over, whether anybody asks or not."""
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        scheduler.sweep()


async def _known(request: Request, error: Exception) -> Response:
    return api_error(error).response()


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = str(first["loc"][-1])
    return ApiError(400, "invalid_value", f"{name} is wrong: {first['msg']}.", name).response()


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    codes = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}
    said = {404: "There is nothing here; see /openapi.json.", 405: "This path has other methods."}
    said[413] = "The body has too many bytes; send a smaller picture."
    status = error.status_code
    told = ApiError(
        status,
        codes.get(status, "malformed"),
        said.get(status, f"The request cannot be read: {error.detail}."),
        headers=dict(error.headers or {}),
    )
    return told.response()
