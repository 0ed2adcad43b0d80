"""Running the application under uvicorn: signals, draining, the exit code, the log.

SIGTERM and SIGINT: not ready from now on, what is under way finishes, then exit 0; a second signal
ends at once. A lost engine: exit 70, for a supervisor to start the process anew.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from types import FrameType

import uvicorn
from fastapi import FastAPI
from sse_starlette.sse import AppStatus

from diffedit.server.settings import Settings
from diffedit.server.timeouts import header_timeout
from engine.errors import DiffEditError

log = logging.getLogger(__name__)

EX_SOFTWARE = 70


class Server(uvicorn.Server):
    """uvicorn that drains first: it goes on listening until what is under way is finished."""

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
                loop="asyncio",  # the same whatever else is installed
                http=header_timeout(settings.upload_seconds),  # type: ignore[arg-type]  # makes protocols
                ws="none",
                timeout_keep_alive=5,
                timeout_graceful_shutdown=5,
                h11_max_incomplete_event_size=64 * 1024,
            )
        )
        self._app, self._settings = app, settings
        self._ending: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def serve(self, sockets: object = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)  # type: ignore[arg-type]

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains, the second ends."""
        if self._ending is not None or self._loop is None or not self.started:
            super().handle_exit(sig, frame)
            return
        self._app.state.scheduler.draining = True
        self._loop.call_soon_threadsafe(self._begin)

    def lost(self) -> None:
        """The engine is lost, or was never there: answer what is held, then end."""
        self._app.state.scheduler.draining = True
        asyncio.get_running_loop().call_later(0.5, setattr, self, "should_exit", True)

    def _begin(self) -> None:
        if self._ending is None:
            self._ending = asyncio.ensure_future(self._drain())

    async def _drain(self) -> None:
        scheduler, began = self._app.state.scheduler, time.monotonic()
        log.info("draining: %d edits under way", len(scheduler.active) + len(scheduler.waiting))
        await scheduler.drain(self._settings.drain_seconds)
        # Who follows a job by its id still wants to fetch it, and a balancer has to see the change.
        await asyncio.sleep(self._settings.linger_seconds)
        log.info("drained after %.1f s", time.monotonic() - began)
        self.should_exit = True


def run(app: FastAPI, settings: Settings) -> int:
    """Serve until told to stop; returns the exit code. Raises what opening the model raised."""
    check_binding(settings)
    engine_host = app.state.engine_host
    server = Server(app, settings)
    engine_host.on_lost = server.lost
    server.run()
    if engine_host.failure is not None:
        raise engine_host.failure
    code = EX_SOFTWARE if engine_host.broken else 0
    if (
        engine_host.broken or engine_host.loading
    ):  # a thread that hangs or loads would keep the process
        sys.stderr.flush()
        os._exit(code)
    return code


def check_binding(settings: Settings) -> None:
    """Refuse to be reachable from elsewhere without keys."""
    if not settings.loopback and settings.api_keys is None and not settings.insecure:
        raise DiffEditError(
            f"Listening on {settings.host} lets other machines in, and there is no key file; give "
            "--api-keys FILE, or --insecure if something in front asks for keys."
        )
    if not settings.loopback and settings.api_keys is None and not settings.allowed_hosts:
        raise DiffEditError(
            "Without keys, pages of other sites could reach this server by a name of theirs; give "
            "the names it is called by: --allowed-host edits.example.org"
        )


class JsonLines(logging.Formatter):
    """One json object a line; neither prompts nor pictures are ever logged."""

    def format(self, record: logging.LogRecord) -> str:
        told = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + "Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        for name in ("request_id", "status", "seconds"):
            if hasattr(record, name):
                told[name] = getattr(record, name)
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps(told)


def log_to_stderr(*, as_json: bool) -> None:
    """The server's log, for people or for machines."""
    handler = logging.StreamHandler()
    plain = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")
    handler.setFormatter(JsonLines() if as_json else plain)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("diffedit").setLevel(logging.INFO)
