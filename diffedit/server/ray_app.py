"""Several replicas behind one address, by Ray Serve: one per GPU, on one machine or several.

    Ingress       the gateway, which Ray Serve's proxies send requests to
    build         the gateway and its replicas (`ray_replica`) as a Serve application
    application   the same from plain options, for `serve run` and `serve deploy`
    run           serve an application on this machine's Ray until a signal arrives

Ray places, counts and restarts the replicas, and delivers each request to the replica that
`PictureRouter` chooses. Batching happens in each replica's Batcher, not in Ray.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from types import FrameType
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayActorError, RayError
from ray.serve.config import AutoscalingConfig, HTTPOptions, RequestRouterConfig
from ray.serve.context import _get_global_client
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RayServeException,
    ReplicaUnavailableError,
)
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator
from ray.serve.schema import LoggingConfig
from starlette.types import ASGIApp, Message

from diffedit.pipeline import DiffEditPipeline
from diffedit.server.access_log import AccessLog
from diffedit.server.auth import AuthMiddleware
from diffedit.server.forwarding import ForwardedRequest
from diffedit.server.gateway import Gateway, ReplicaLost, ReplicasBusy
from diffedit.server.key_file import KeyFile
from diffedit.server.metrics import merge_metrics
from diffedit.server.ray_options import Options, read_options
from diffedit.server.ray_replica import Replica
from diffedit.server.router import STATS_SECONDS, PictureRouter
from diffedit.server.run import check_binding, log_to_stderr
from diffedit.server.scaling import Scaling
from diffedit.server.settings import Settings
from engine.errors import DiffEditError

log = logging.getLogger(__name__)

APP_NAME = "diffedit"
UPSCALE_SECONDS = 5.0
"""Seconds of overload before a replica is added; loading it takes longer."""
HEALTH_SECONDS = 2.0
"""Interval of Ray's health checks."""
STATUS_REQUESTS = 1000
"""Concurrent requests a replica accepts in addition to its edits: probes, states, event streams."""
INGRESS_REQUESTS = 100_000
"""Concurrent requests of the gateway, including slow uploads. It limits their memory itself."""
CONTROL_SECONDS = 5.0
"""Timeout of calls to all replicas."""


class Ingress:
    """The gateway with its middleware, in a separate process."""

    def __init__(self, replicas: DeploymentHandle[Any], settings: Settings, json_log: bool) -> None:
        log_to_stderr(as_json=json_log)
        settings = at_proxy_address(settings)
        check_binding(settings)
        keys = KeyFile(settings.api_keys) if settings.api_keys else None
        self._gateway = Gateway(
            lambda request: _dispatch(replicas, request),
            settings,
            lambda: _replica_metrics(replicas),
        )
        authenticated = AuthMiddleware(self._gateway, settings, keys)
        self._app = AccessLog(authenticated, observe_response=lambda *_: None)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Return the application that Ray sends requests to."""
        return self._app

    def drain(self) -> None:
        """Refuse new edits."""
        self._gateway.draining = True


async def _dispatch(
    replicas: DeploymentHandle[Any], request: ForwardedRequest
) -> AsyncIterator[list[Message]]:
    """Send a request to a replica through Ray."""
    handle = replicas.options(method_name="respond", stream=True, session_id=request.routing_key)
    response = handle.remote(request)
    assert isinstance(response, DeploymentResponseGenerator)
    try:
        async for messages in response:
            yield messages
    except BackPressureError:
        raise ReplicasBusy from None
    except (RayActorError, DeploymentUnavailableError, ReplicaUnavailableError) as error:
        log.warning("replica lost: %s", type(error).__name__)
        raise ReplicaLost from error
    finally:
        response.cancel()  # type: ignore[no-untyped-call]


async def _replica_metrics(replicas: DeploymentHandle[Any]) -> str:
    """Return the metrics of all replicas, labelled with their names."""
    broadcast = replicas.broadcast("metrics")
    results = await asyncio.to_thread(broadcast.results, timeout_s=CONTROL_SECONDS)
    return merge_metrics(dict(results))


def build(
    open_pipeline: Callable[[], DiffEditPipeline],
    model: str,
    settings: Settings,
    scaling: Scaling,
    *,
    json_log: bool = False,
) -> serve.Application:
    """Build the Serve application.

    Args:
        open_pipeline: loads the model in each replica; Ray pickles it.
        model, settings: see `create_app`.
        scaling: number and resources of the replicas.
        json_log: log JSON lines; Ray writes them to its own files.
    """
    max_jobs = settings.max_active + settings.max_waiting
    replica = serve.deployment(
        name="replica",
        **_replica_count(scaling, settings),
        ray_actor_options={"num_cpus": scaling.cpus, "num_gpus": scaling.gpus},
        max_ongoing_requests=max_jobs + STATUS_REQUESTS,
        max_queued_requests=max_jobs * scaling.max_replicas,
        max_constructor_retry_count=3,
        graceful_shutdown_timeout_s=settings.drain_seconds + 10,
        health_check_period_s=HEALTH_SECONDS,
        health_check_timeout_s=settings.stall_seconds,
        request_router_config=RequestRouterConfig.model_validate(
            {
                "request_router_class": PictureRouter,
                "request_router_kwargs": {"num_fallback_replicas": scaling.max_replicas},
                "request_routing_stats_period_s": STATS_SECONDS,
            }
        ),
    )(Replica).bind(open_pipeline, model, settings, json_log, _replica_name)

    ingress = serve.deployment(
        name="ingress",
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=INGRESS_REQUESTS,
        graceful_shutdown_timeout_s=settings.drain_seconds + 10,
    )(serve.ingress()(Ingress))
    return ingress.bind(replica, settings, json_log)


def _replica_name() -> str:
    name: str = serve.get_replica_context().replica_id.unique_id
    return name


def _replica_count(scaling: Scaling, settings: Settings) -> dict[str, Any]:
    """A fixed number of replicas, or autoscaling."""
    if scaling.min_replicas == scaling.max_replicas:
        return {"num_replicas": scaling.min_replicas}
    autoscaling = AutoscalingConfig(
        min_replicas=scaling.min_replicas,
        max_replicas=scaling.max_replicas,
        target_ongoing_requests=settings.max_active,
        upscale_delay_s=UPSCALE_SECONDS,
    )
    return {"autoscaling_config": autoscaling}


def application(options: Options | Mapping[str, Any]) -> serve.Application:
    """Build the application from plain options: `serve run diffedit.server.ray_app:application`.

    Raises DiffEditError for options that are not valid, and if Ray listens beyond loopback without
    API keys, see `check_binding`.
    """
    chosen = read_options(options)
    settings = at_proxy_address(chosen.server_settings())
    check_binding(settings)
    return build(chosen.open_pipeline, chosen.served_as, settings, chosen.scaling())


def at_proxy_address(settings: Settings) -> Settings:
    """The settings with the address that Ray's proxies listen on, if they are running."""
    if not ray.is_initialized():  # the next line would start it
        return settings
    try:
        client = _get_global_client(raise_if_no_controller_running=False)
    except (RayError, RayServeException):
        client = None
    if client is None:
        return settings
    return settings.model_copy(update={"host": client.http_config.host})


# -- on this machine -------------------------------------------------------------------------------


def start(settings: Settings) -> None:
    """Connect to the cluster in RAY_ADDRESS, or start Ray on this machine, and listen.

    Raises DiffEditError for an address beyond loopback without keys.
    """
    check_binding(settings)
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
    """Start the application, or replace the running one step by step. Returns when it is ready.

    Raises DiffEditError if the replicas do not start.
    """
    quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
    try:
        serve.run(application, name=APP_NAME, route_prefix="/", logging_config=quiet)
    except RuntimeError as error:
        raise DiffEditError(
            "The replicas did not start; Ray's messages above have the reason."
        ) from error


def run(application: serve.Application, settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT, drain, and return the exit code."""
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)  # a second signal exits immediately
        stopped.set()

    start(settings)
    for number in (signal.SIGTERM, signal.SIGINT):  # after ray.init, which sets its own handlers
        signal.signal(number, stop)
    try:
        deploy(application)
        log.info("ready at http://%s:%d/", settings.host, settings.port)
        stopped.wait()
        drain(settings)
        return 0
    finally:
        serve.shutdown()  # type: ignore[no-untyped-call]
        ray.shutdown()


def drain(settings: Settings) -> None:
    """Refuse new edits, and wait up to `drain_seconds` for the others."""
    log.info("draining")
    serve.get_app_handle(APP_NAME).broadcast("drain").results(timeout_s=CONTROL_SECONDS)
    replicas = serve.get_deployment_handle("replica", APP_NAME)
    deadline = time.monotonic() + settings.drain_seconds
    while time.monotonic() < deadline:
        if not sum(replicas.broadcast("unfinished_jobs").results(timeout_s=CONTROL_SECONDS)):
            break
        time.sleep(0.1)
    time.sleep(settings.linger_seconds)
