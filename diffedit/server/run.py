"""Run the application with uvicorn: signals, draining, exit code, log format.

The first SIGTERM or SIGINT makes the server not ready, and responses close their connections. After
`drain_delay_seconds` (SIGTERM only) new jobs are refused; the others finish, and the process exits
with 0. A second signal ends every job with 503 and exits. A failed engine exits
with 70, so that a supervisor restarts the process.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from sse_starlette.sse import AppStatus

from diffedit.server.errors import draining, engine_lost
from diffedit.server.settings import Settings
from diffedit.server.timeouts import header_timeout_protocol
from engine.errors import DiffEditError

log = logging.getLogger(__name__)

EX_SOFTWARE = 70
CLOSE_SECONDS = 5
"""Seconds for open connections to finish after draining."""
FAILURE_SECONDS = 5.0
"""Seconds for jobs to end after the engine has failed."""


class Server(uvicorn.Server):
    """A uvicorn server that keeps listening while it drains, and only then shuts down."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        AppStatus.disable_automatic_graceful_drain()  # type: ignore[no-untyped-call]
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                log_config=None,
                access_log=False,
                server_header=False,
                loop="asyncio",  # not uvloop, even if it is installed
                http=header_timeout_protocol(settings.upload_seconds),  # type: ignore[arg-type]
                ws="none",
                timeout_keep_alive=5,
                timeout_graceful_shutdown=CLOSE_SECONDS,
                h11_max_incomplete_event_size=64 * 1024,
            )
        )
        self._app, self._settings = app, settings
        self._drain_task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def serve(self, sockets: object = None) -> None:
        self._loop = asyncio.get_running_loop()
        if threading.current_thread() is threading.main_thread():
            self._loop.add_signal_handler(signal.SIGHUP, self.on_hangup)
        await super().serve(sockets)  # type: ignore[arg-type]

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain on the first signal, end every job and exit on the second."""
        if self._loop is None or not self.started:
            super().handle_exit(sig, frame)
            return
        scheduler = self._app.state.scheduler
        delay = self._settings.drain_delay_seconds if sig == signal.SIGTERM else 0.0
        scheduler.leaving = True
        scheduler.draining = scheduler.draining or not delay
        if self._drain_task is None:
            self._loop.call_soon_threadsafe(self._start, functools.partial(self._drain, delay))
        else:
            scheduler.draining = True
            self._loop.call_soon_threadsafe(scheduler.end_all, draining())
            super().handle_exit(sig, frame)

    def on_hangup(self) -> None:
        """SIGHUP: read the API keys again."""
        if (keys := self._app.state.keys) is not None:
            keys.reload()

    def on_engine_failure(self) -> None:
        """Exit after the running and queued jobs have been answered."""
        scheduler = self._app.state.scheduler
        scheduler.leaving = scheduler.draining = True
        self._start(self._end_failed)

    def _start(self, shutdown: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if self._drain_task is None:
            self._drain_task = asyncio.ensure_future(shutdown())

    async def _end_failed(self) -> None:
        scheduler, engine_host = self._app.state.scheduler, self._app.state.engine_host
        try:
            if engine_host.failure_reason:
                scheduler.end_all(engine_lost(engine_host.failure_reason))
            await scheduler.drain(FAILURE_SECONDS)
        except Exception:
            log.exception("the jobs of a failed engine were not ended")
        finally:
            self.should_exit = True

    async def _drain(self, delay: float) -> None:
        if delay:
            log.info("not ready any more; new edits are refused in %g s", delay)
            await asyncio.sleep(delay)
        scheduler, began = self._app.state.scheduler, time.monotonic()
        log.info("draining %d jobs", len(scheduler.active) + len(scheduler.waiting))
        try:
            in_time = await scheduler.drain(self._settings.drain_seconds)
            # Time for clients to fetch results, and for load balancers to see that it is not ready.
            await asyncio.sleep(self._settings.linger_seconds)
            ended = "drained" if in_time else "out of time to drain, edits were answered with 503"
            log.info("%s after %.1f s", ended, time.monotonic() - began)
        except Exception:
            log.exception("draining failed")
        finally:
            self.should_exit = True


def run(app: FastAPI, settings: Settings, sockets: list[socket.socket] | None = None) -> int:
    """Serve until a signal arrives, and return the exit code.

    `sockets` listen already (`diffedit.server.listen`); None listens on the settings' address.

    Raises DiffEditError for an unsafe address. Exceptions from loading the model propagate.
    """
    check_binding(settings)
    engine_host = app.state.engine_host
    server = Server(app, settings)
    engine_host.on_failure = server.on_engine_failure
    server.run(sockets)
    if engine_host.load_error is not None:
        raise engine_host.load_error
    code = EX_SOFTWARE if engine_host.failure_reason else 0
    if engine_host.failure_reason or engine_host.loading:
        # A hung or loading thread would keep the process alive.
        sys.stderr.flush()
        os._exit(code)
    return code


def check_binding(settings: Settings) -> None:
    """Raise DiffEditError for an address beyond loopback without keys or host names."""
    if not settings.loopback and settings.api_keys is None and not settings.insecure:
        raise DiffEditError(
            f"The address {settings.host} is reachable from other machines, but there is no API "
            "key file; pass --api-keys FILE, or --insecure if a proxy checks the keys."
        )
    if not settings.loopback and settings.api_keys is None and not settings.allowed_hosts:
        raise DiffEditError(
            "Without API keys, other sites could reach this server by DNS rebinding; pass its host "
            "names, such as --allowed-host edits.example.org"
        )


class JsonFormatter(logging.Formatter):
    """Formats a log record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + "Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        for name in ("request_id", "key", "status", "seconds"):
            if getattr(record, name, None) is not None:
                entry[name] = getattr(record, name)
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def log_to_stderr(*, as_json: bool) -> None:
    """Log to standard error, as text or as JSON lines."""
    handler = logging.StreamHandler()
    text = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")
    handler.setFormatter(JsonFormatter() if as_json else text)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("diffedit").setLevel(logging.INFO)
