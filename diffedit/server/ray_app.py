"""Several servers behind one address, by Ray Serve: a replica a GPU, on one machine or many.

    Replica       one server, as `diffedit-trt serve` runs it, without a socket of its own
    build         both, and the front, as a Serve application
    application   the same for `serve run` and `serve deploy`, from plain options
    run           an application on this machine's Ray until a signal comes

Ray places replicas, counts them, starts new ones for those that die, and carries calls to the one
that `PictureRouter` names. What batches is each replica's Batcher; there is no second one here.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import FrameType
from typing import Any

import ray
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.config import AutoscalingConfig, HTTPOptions, RequestRouterConfig
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
)
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator
from ray.serve.schema import LoggingConfig
from starlette.types import ASGIApp, Message

from diffedit.pipeline import DiffEditPipeline
from diffedit.server.access_log import AccessLog
from diffedit.server.app import create_app
from diffedit.server.auth import ApiKeys, AuthMiddleware
from diffedit.server.gateway import Call, Full, Gateway, Lost, play
from diffedit.server.metrics import merged
from diffedit.server.router import STATS_SECONDS, PictureRouter
from diffedit.server.run import log_to_stderr
from diffedit.server.scaling import Scaling
from diffedit.server.settings import Settings
from engine.errors import DiffEditError

log = logging.getLogger(__name__)

NAME = "diffedit"
UPSCALE_SECONDS = 5.0
"""How long there has to be too much to do before a replica is added; to load one takes longer."""
HEALTH_SECONDS = 2.0
POLLS = 64
"""Places of a replica beside its edits', for requests that look after jobs."""


class Replica:
    """One server. Ray makes it where it places it, and takes it away after `__del__`."""

    async def __init__(  # type: ignore[misc]  # Ray awaits it
        self,
        open_pipeline: Callable[[], DiffEditPipeline],
        model: str,
        settings: Settings,
        json_log: bool,
    ) -> None:
        """Returns when the server is ready; raises what opening the model raised."""
        log_to_stderr(as_json=json_log)
        name = serve.get_replica_context().replica_id.unique_id
        self.app = create_app(open_pipeline, model, settings, name=name)
        self.engine_host, self.scheduler = self.app.state.engine_host, self.app.state.scheduler
        self._life = self.app.router.lifespan_context(self.app)
        await self._life.__aenter__()
        while not self.engine_host.warm:
            if self.engine_host.failure is not None:
                raise self.engine_host.failure
            await asyncio.sleep(0.05)

    async def answer(self, call: Call) -> AsyncIterator[list[Message]]:
        """Its answer to a call, a few messages at a time."""
        async for messages in play(self.app, call):
            yield messages

    async def figures(self) -> tuple[str, str]:
        """Its name and its figures, as Prometheus reads them."""
        name = serve.get_replica_context().replica_id.unique_id
        return name, self.app.state.metrics.text().decode()

    def busy(self) -> int:
        """Edits under way or waiting."""
        return len(self.scheduler.active) + len(self.scheduler.waiting)

    def record_routing_stats(self) -> dict[str, float]:
        """Seconds of work that it holds, and what a picture's encoding costs elsewhere."""
        return {"backlog": self.scheduler.backlog, "detour": self.engine_host.costs.encoding()}

    def check_health(self) -> None:
        """A replica whose engine is lost is replaced."""
        if self.engine_host.broken:
            raise RuntimeError(self.engine_host.broken)

    async def __del__(self) -> None:
        """Jobs that nobody waits for are finished, then the engine is put away."""
        await self._life.__aexit__(None, None, None)


class Front:
    """The door, in a process that Ray gives it."""

    def __init__(self, replicas: DeploymentHandle[Any], settings: Settings, json_log: bool) -> None:
        log_to_stderr(as_json=json_log)
        keys = ApiKeys.read(settings.api_keys) if settings.api_keys else None
        self.relay = Gateway(
            lambda call: _carry(replicas, call), settings, lambda: _figures(replicas)
        )
        self._door = AccessLog(AuthMiddleware(self.relay, settings, keys), seen=lambda *_: None)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """What Ray hands requests to."""
        return self._door

    def drain(self) -> None:
        """Take nothing more."""
        self.relay.draining = True


def build(
    open_pipeline: Callable[[], DiffEditPipeline],
    model: str,
    settings: Settings,
    scale: Scaling,
    *,
    json_log: bool = False,
) -> serve.Application:
    """The front and its replicas.

    Args:
        open_pipeline: called in every replica; Ray pickles it.
        model, settings: as `create_app` takes them.
        json_log: whether front and replicas log json lines, into Ray's files.
    """
    places = settings.max_active + settings.max_waiting
    fixed = scale.least == scale.most
    routing = RequestRouterConfig.model_validate(
        {
            "request_router_class": PictureRouter,
            "request_router_kwargs": {"num_fallback_replicas": scale.most},
            "request_routing_stats_period_s": STATS_SECONDS,
        }
    )
    replica = serve.deployment(
        name="replica",
        num_replicas=scale.least if fixed else None,
        autoscaling_config=None
        if fixed
        else AutoscalingConfig(
            min_replicas=scale.least,
            max_replicas=scale.most,
            target_ongoing_requests=settings.max_active,
            upscale_delay_s=UPSCALE_SECONDS,
        ),
        ray_actor_options={"num_cpus": scale.cpus, "num_gpus": scale.gpus},
        max_ongoing_requests=places + POLLS,
        max_queued_requests=places * scale.most,
        max_constructor_retry_count=3,
        graceful_shutdown_timeout_s=settings.drain_seconds + 10,
        health_check_period_s=HEALTH_SECONDS,
        health_check_timeout_s=settings.stall_seconds,
        request_router_config=routing,
    )(Replica).bind(open_pipeline, model, settings, json_log)

    front = serve.deployment(
        name="front",
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=(places + POLLS) * scale.most,
        graceful_shutdown_timeout_s=settings.drain_seconds + 10,
    )(serve.ingress()(Front))
    return front.bind(replica, settings, json_log)


async def _carry(handle: DeploymentHandle[Any], call: Call) -> AsyncIterator[list[Message]]:
    """By Ray, to the replica that `PictureRouter` chooses."""
    options = handle.options(method_name="answer", stream=True, session_id=call.prefer)
    answer = options.remote(call)
    assert isinstance(answer, DeploymentResponseGenerator)
    try:
        async for messages in answer:
            yield messages
    except BackPressureError:
        raise Full from None
    except (RayActorError, DeploymentUnavailableError, ReplicaUnavailableError) as error:
        log.warning("a replica went away: %s", type(error).__name__)
        raise Lost from error
    finally:
        answer.cancel()  # type: ignore[no-untyped-call]


async def _figures(handle: DeploymentHandle[Any]) -> str:
    """Every replica's figures, each with its name as a label."""
    told = await asyncio.to_thread(lambda: handle.broadcast("figures").results(timeout_s=5))
    return merged(dict(told))


# -- by name, for `serve run` and `serve deploy` ---------------------------------------------------


class Options(BaseModel):
    """What an application is made of, as plain values; see docs/deploy.md."""

    model_config = ConfigDict(extra="forbid")

    model: str
    backend: str = "auto"
    engines: Path | None = None
    device: str | None = None
    dtype: str | None = None
    size: tuple[int, int] | None = None
    compile: bool = False
    pin_batch_size: int | None = None
    variant: str | None = None
    revision: str | None = None
    served_as: str = "diffedit"
    replicas: str = "1"
    gpus_per_replica: float = Field(1.0, ge=0)
    cpus_per_replica: float = Field(1.0, ge=0)
    settings: dict[str, Any] = {}


def application(options: Options) -> serve.Application:
    """The same from plain options: `serve run diffedit.server.ray_app:application model=...`."""
    known = options.model_dump()
    model, served_as = known.pop("model"), known.pop("served_as")
    gpus, cpus = known.pop("gpus_per_replica"), known.pop("cpus_per_replica")
    scale = Scaling.parse(known.pop("replicas"), gpus=gpus, cpus=cpus)
    settings = Settings(**known.pop("settings"))

    def open_pipeline() -> DiffEditPipeline:
        return DiffEditPipeline.from_pretrained(model, **known)

    return build(open_pipeline, served_as, settings, scale)


# -- on this machine -------------------------------------------------------------------------------


def start(settings: Settings) -> None:
    """Join the cluster that RAY_ADDRESS names, or begin one here, and listen."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(include_dashboard=False, logging_level=logging.WARNING, log_to_driver=True)
    serve.start(
        http_options=HTTPOptions(
            host=settings.host,
            port=settings.port,
            request_timeout_s=settings.request_seconds + settings.upload_seconds + 30,
        )
    )


def deploy(application: serve.Application) -> None:
    """Start it, or replace the one that runs, a few replicas at a time; returns when it is up.

    Raises DiffEditError where its replicas do not start.
    """
    quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
    try:
        serve.run(application, name=NAME, route_prefix="/", logging_config=quiet)
    except RuntimeError as error:
        raise DiffEditError(
            "The replicas do not start; what Ray printed above says why."
        ) from error


def run(application: serve.Application, settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT, then finish what is under way. Returns the exit code."""
    over = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)  # a second one ends at once
        over.set()

    start(settings)
    for number in (signal.SIGTERM, signal.SIGINT):  # after Ray's own, which end at once
        signal.signal(number, end)
    try:
        deploy(application)
        log.info("ready at http://%s:%d/", settings.host, settings.port)
        over.wait()
        drain(settings)
        return 0
    finally:
        serve.shutdown()  # type: ignore[no-untyped-call]
        ray.shutdown()


def drain(settings: Settings) -> None:
    """Take nothing more, and wait for what is under way as long as it may take."""
    log.info("draining")
    serve.get_app_handle(NAME).broadcast("drain").results(timeout_s=5)
    replicas = serve.get_deployment_handle("replica", NAME)
    until = time.monotonic() + settings.drain_seconds
    while sum(replicas.broadcast("busy").results(timeout_s=5)) and time.monotonic() < until:
        time.sleep(0.1)
    time.sleep(settings.linger_seconds)
