"""The pipeline's keeper: opens it, warms it up, watches it, puts it away when nobody comes.

It knows nothing of HTTP or of requests. Crash-only: once the device or the engine's thread is lost,
it says so for good (`broken`), and the process is expected to end.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from diffedit.pipeline import DiffEditPipeline
from diffedit.server import cost_model
from diffedit.server.errors import ApiError
from diffedit.server.settings import Settings

log = logging.getLogger(__name__)

BEAT = 0.1
"""Seconds between two looks at the engine."""


class EngineHost:
    """One pipeline, open or not.

    Attributes:
        model: the name it is served under.
        broken: why no request can ever be served again, or None.
        costs: what calls take here; None before the first warm-up.
        failure: why the model could not be opened at the start, or None.
        on_lost: called once when the engine is lost, or cannot be had at all.
        load_seconds: how long the last opening took, warm-up included.
    """

    def __init__(
        self,
        open_pipeline: Callable[[], DiffEditPipeline],
        model: str,
        settings: Settings,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self.model = model
        self.broken: str | None = None
        self.costs: cost_model.CostModel | None = None
        self.load_seconds = 0.0
        self.users = 0
        self.failure: BaseException | None = None
        self.on_lost = on_lost
        self._open, self._settings = open_pipeline, settings
        self._pipe: DiffEditPipeline | None = None
        self._lock = asyncio.Lock()
        self._left = time.monotonic()
        self._watcher: asyncio.Task[None] | None = None

    @property
    def pipe(self) -> DiffEditPipeline | None:
        """The pipeline where it is open, for figures."""
        return self._pipe

    @property
    def warm(self) -> bool:
        """Whether it has been ready once; unloading does not change that."""
        return self.costs is not None and self.broken is None

    async def enter(self) -> DiffEditPipeline:
        """The open pipeline, opened first where it is not; to be followed by `leave`."""
        self.users += 1
        try:
            async with self._lock:
                if self.broken:
                    raise ApiError(503, "engine_lost", self.broken, retry_after=10)
                if self._pipe is None:
                    await self._load()
                assert self._pipe is not None
                return self._pipe
        except BaseException:
            self.leave()
            raise

    def leave(self) -> None:
        """One user less."""
        self.users -= 1
        self._left = time.monotonic()

    def start(self) -> None:
        """Begin to open and warm up; then watch."""
        self._watcher = asyncio.create_task(self._begin())

    @property
    def loading(self) -> bool:
        """Whether a thread is busy opening the model."""
        return self._lock.locked()

    async def stop(self) -> None:
        """Release everything; a lost engine is left alone, since waiting for it could take for
        ever."""
        if self._watcher is not None:
            self._watcher.cancel()
        if self._pipe is not None and self.broken is None:
            pipe, self._pipe = self._pipe, None
            await asyncio.to_thread(pipe.close)

    def break_down(self, why: str) -> None:
        """The engine is lost: say so once and for ever."""
        if self.broken is None:
            self.broken = why
            log.error("engine lost: %s", why)
            self.on_lost()

    async def _load(self) -> None:
        began = time.monotonic()

        def load() -> tuple[DiffEditPipeline, cost_model.CostModel]:
            pipe = self._open()
            return pipe, cost_model.measure(pipe)

        pipe, self.costs = await asyncio.to_thread(load)
        self._pipe = pipe
        self.load_seconds = time.monotonic() - began
        self._left = time.monotonic()
        log.info("ready after %.1f s: %s", self.load_seconds, pipe.describe())

    async def _begin(self) -> None:
        try:
            async with self._lock:
                await self._load()
        except Exception as error:
            self.failure = error
            self.on_lost()
            return
        await self._watch()

    @property
    def stall_limit(self) -> float:
        """Seconds after which a call is taken for lost, well above the slowest one measured."""
        calls = self.costs.calls if self.costs is not None else {}
        slowest = max((s for profiles in calls.values() for s in profiles.values()), default=0.0)
        return max(self._settings.stall_seconds, 10 * slowest)

    async def _watch(self) -> None:
        """Notice a call that never returns, a thread that died, and long idleness."""
        while True:
            await asyncio.sleep(BEAT)
            pipe = self._pipe
            if pipe is None or self.broken:
                continue
            if not pipe.batcher.alive:
                self.break_down("The engine's thread has ended; the server has to be restarted.")
            elif pipe.batcher.busy_seconds > self.stall_limit:
                self.break_down(
                    f"A network call has not returned for {self.stall_limit:.0f} s; "
                    "restart the server."
                )
            elif self._idle_too_long() and not self._lock.locked():
                async with self._lock:
                    if self._idle_too_long():
                        self._pipe = None
                        await asyncio.to_thread(pipe.close)
                        log.info("unloaded after being idle; the next request loads it again")

    def _idle_too_long(self) -> bool:
        limit = self._settings.idle_unload_seconds
        return limit is not None and not self.users and time.monotonic() - self._left > limit
