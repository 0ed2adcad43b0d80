"""Load, warm up, monitor and unload the pipeline.

The design is crash-only: when the engine fails and cannot recover, `failure_reason` is set once and
the process is expected to exit.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from diffedit.pipeline import DiffEditPipeline
from diffedit.server import cost_model
from diffedit.server.errors import engine_lost
from diffedit.server.model_card import model_card
from diffedit.server.settings import Settings
from diffedit.server.threads import retrieve_exception, start_daemon, wait_for

log = logging.getLogger(__name__)

POLL_SECONDS = 0.1
"""Interval between two checks of the engine."""

Loaded = tuple[DiffEditPipeline, cost_model.CostModel]


class EngineHost:
    """One pipeline, loaded or not.

    Attributes:
        model: the name the model is served under.
        cost_model: measured call times; None before the first warm-up.
        model_card: what GET /v1/models says about the model; empty before the first load.
        failure_reason: why the engine failed, or None. A failure is permanent.
        load_error: the exception of the first load, or None.
        on_failure: called once when the engine fails or the first load raises.
        load_seconds: duration of the last load, including the warm-up.
    """

    def __init__(
        self,
        open_pipeline: Callable[[], DiffEditPipeline],
        model: str,
        settings: Settings,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        self.model = model
        self.cost_model: cost_model.CostModel | None = None
        self.model_card: Mapping[str, Any] = {}
        self.failure_reason: str | None = None
        self.load_error: BaseException | None = None
        self.on_failure = on_failure
        self.load_seconds = 0.0
        self._open, self._settings = open_pipeline, settings
        self._pipeline: DiffEditPipeline | None = None
        self._users = 0
        self._lock = asyncio.Lock()
        self._last_used = time.monotonic()
        self._monitor_task: asyncio.Task[None] | None = None
        self._load_task: asyncio.Task[None] | None = None
        self._load_thread: Future[Loaded] | None = None

    @property
    def pipeline(self) -> DiffEditPipeline | None:
        """The pipeline, or None while it is not loaded. Use `acquire` to run edits."""
        return self._pipeline

    @property
    def warm(self) -> bool:
        """Whether the model has been loaded and the engine works. Still true after unloading."""
        return self.cost_model is not None and self.failure_reason is None

    @property
    def loading(self) -> bool:
        """Whether a thread is loading or unloading the model."""
        in_thread = self._load_thread is not None and not self._load_thread.done()
        return in_thread or self._lock.locked()

    def start(self) -> None:
        """Load the model in the background, then monitor the engine."""
        self._monitor_task = asyncio.create_task(self._load_and_monitor())

    async def stop(self) -> None:
        """Close the pipeline. A load in progress closes its own pipeline when it ends.

        A failed engine is not closed, since closing might never return.
        """
        for task in (self._monitor_task, self._load_task):
            if task is not None:
                task.cancel()
        if self._pipeline is not None and self.failure_reason is None:
            pipeline, self._pipeline = self._pipeline, None
            await asyncio.to_thread(pipeline.close)

    async def acquire(self) -> DiffEditPipeline:
        """Return the pipeline, and load it first if necessary. Call `release` afterwards.

        Raises ApiError if the engine has failed. Exceptions from loading the model propagate.
        """
        self._users += 1
        try:
            if self.failure_reason:
                raise engine_lost(self.failure_reason)
            if self._pipeline is None:
                # Shielded: the load goes on for the next request if this one is cancelled.
                await asyncio.shield(self._shared_load())
            assert self._pipeline is not None
            return self._pipeline
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """End a use of the pipeline."""
        self._users -= 1
        self._last_used = time.monotonic()

    def mark_failed(self, reason: str) -> None:
        """Record that the engine has failed permanently. Only the first reason is kept."""
        if self.failure_reason is None:
            self.failure_reason = reason
            log.error("engine lost: %s", reason)
            self.on_failure()

    def check_alive(self) -> None:
        """Record a failure if the engine thread has ended."""
        if self._pipeline is not None and not self._pipeline.batcher.alive:
            self.mark_failed("The engine thread has stopped; restart the server.")

    @property
    def stall_seconds(self) -> float:
        """Duration after which a network call counts as hung."""
        slowest = self.cost_model.slowest_call if self.cost_model is not None else 0.0
        return max(self._settings.stall_seconds, 10 * slowest)

    # -- loading -----------------------------------------------------------------------------------

    def _shared_load(self) -> asyncio.Task[None]:
        """Return the load in progress, or start one. It continues if a request is cancelled."""
        if self._load_task is None or self._load_task.done():
            self._load_task = asyncio.create_task(self._load())
            self._load_task.add_done_callback(self._log_failed_load)
        return self._load_task

    async def _load(self) -> None:
        async with self._lock:  # an unload may be in progress
            began = time.monotonic()
            self._load_thread = start_daemon(self._open_and_measure, "load")
            loaded = await wait_for(self._load_thread, lambda late: late[0].close())
            self._pipeline, self.cost_model = loaded
            self.model_card = model_card(self._pipeline)
            self._pipeline.batcher.network_calls.on_call = self.cost_model.observe
            self._last_used = time.monotonic()
            self.load_seconds = self._last_used - began
            log.info("model loaded in %.1f s: %s", self.load_seconds, self._pipeline.describe())

    def _log_failed_load(self, task: asyncio.Task[None]) -> None:
        """Log why a reload failed, even if no request waits for it. `run` raises the error of the
        first load."""
        error = retrieve_exception(task)
        if error is not None and self.cost_model is not None:
            log.error("the model cannot be loaded again: %s", error)

    def _open_and_measure(self) -> Loaded:
        """Open the pipeline and measure its calls. Runs in its own thread."""
        pipeline = self._open()
        try:
            return pipeline, cost_model.measure(pipeline)
        except BaseException:
            pipeline.close()
            raise

    # -- monitoring --------------------------------------------------------------------------------

    async def _load_and_monitor(self) -> None:
        try:
            await asyncio.shield(self._shared_load())
        except Exception as error:
            self.load_error = error
            self.on_failure()
            return
        while True:
            await asyncio.sleep(POLL_SECONDS)
            if self._pipeline is not None and self.failure_reason is None:
                await self._check(self._pipeline)

    async def _check(self, pipeline: DiffEditPipeline) -> None:
        """Detect a dead engine thread and a hung network call; unload an idle model."""
        self.check_alive()
        if pipeline.batcher.busy_seconds > self.stall_seconds:
            self.mark_failed(
                f"A network call has not returned within {self.stall_seconds:.0f} s; "
                "restart the server."
            )
        elif self._idle and not self._lock.locked():
            await self._unload(pipeline)

    async def _unload(self, pipeline: DiffEditPipeline) -> None:
        async with self._lock:
            if not self._idle:  # a request may have come first
                return
            self._pipeline = None
            try:
                await asyncio.to_thread(pipeline.close)
            except Exception:
                log.exception("the idle model was not unloaded cleanly")
                self.mark_failed("The model could not be unloaded; restart the server.")
            else:
                log.info("idle model unloaded; the next request loads it again")

    @property
    def _idle(self) -> bool:
        """Whether the model has been unused for longer than `idle_unload_seconds`."""
        limit = self._settings.idle_unload_seconds
        return limit is not None and not self._users and time.monotonic() - self._last_used > limit
