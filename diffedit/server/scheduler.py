"""Who is served when: admission by seconds of work, a queue, deadlines, cancelling, results.

Everything here runs on the event loop; what takes time runs in the small pool or on the engine's
thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from diffedit.handle import EditHandle
from diffedit.pipeline import DiffEditPipeline
from diffedit.server import image_codec
from diffedit.server.engine_host import EngineHost
from diffedit.server.errors import ApiError, api_error, poisons
from diffedit.server.forms import EditForm
from diffedit.server.image_codec import DecodedOrder
from diffedit.server.jobs import Job, State
from diffedit.server.progress import ProgressReporter
from diffedit.server.settings import Settings

log = logging.getLogger(__name__)

MAX_JOBS = 10_000


class Scheduler:
    """Takes orders, serves at most `max_active` at a time, keeps results for a while.

    Attributes:
        draining: no order is taken any more.
        counts: what happened so far, by name, for the metrics.
    """

    def __init__(
        self, engine_host: EngineHost, settings: Settings, name: str | None = None
    ) -> None:
        self.engine_host, self.settings, self._name = engine_host, settings, name
        self.draining = False
        self.counts: dict[str, int] = {}
        self.pool = ThreadPoolExecutor(4, "pictures")
        self.active: set[Job] = set()
        self.waiting: deque[Job] = deque()
        self.jobs: OrderedDict[str, Job] = OrderedDict()
        self.on_end: Callable[[Job], None] = lambda job: None

    # -- admission ------------------------------------------------------------------------------

    @property
    def backlog(self) -> float:
        """Seconds of work that was accepted and is still to be done."""
        return sum(job.left for job in [*self.active, *self.waiting])

    def check_open(self) -> None:
        """Raise ApiError where no order is taken now, however small."""
        if self.engine_host.broken:
            raise ApiError(503, "engine_lost", self.engine_host.broken, retry_after=10)
        if self.draining:
            raise ApiError(503, "draining", "The server is shutting down.", retry_after=5)
        if self.engine_host.costs is None:
            raise ApiError(503, "not_ready", "The model is still being loaded.", retry_after=5)
        full = len(self.active) >= self.settings.max_active
        if full and len(self.waiting) >= self.settings.max_waiting:
            message = f"{len(self.waiting)} edits wait already; try again a little later."
            raise self._refused(message, self.backlog / 2)
        if self.active and self.backlog > self.settings.max_queue_seconds:
            raise self._late(self.backlog, self.backlog - self.settings.max_queue_seconds)

    def _late(self, backlog: float, excess: float) -> ApiError:
        return self._refused(
            f"There are {backlog:.0f} s of work before this edit; try again a little later.", excess
        )

    def _refused(self, message: str, seconds: float) -> ApiError:
        self.count("refused")
        return ApiError(429, "queue_full", message, retry_after=seconds)

    def admit(
        self,
        order: EditForm,
        *,
        mask_only: bool = False,
        timeout: float | None,
        request_id: str,
        owner: str | None = None,
    ) -> Job:
        """Accept an order and start it, or raise ApiError: 503 while the server ends, 429 where the
        queue is full, 400 where no server could keep the deadline."""
        self.check_open()
        assert self.engine_host.costs is not None
        requests = order.requests(b"", b"" if order.mask is not None else None)
        costs = self.engine_host.costs
        work = sum(costs.work(r, mask_only=mask_only) for r in requests)
        alone = max(costs.alone(requests[0], mask_only=mask_only), work)
        limit = min(timeout or self.settings.request_seconds, self.settings.request_seconds)
        backlog = self.backlog
        if alone > limit:
            raise ApiError(
                400,
                "deadline_impossible",
                f"This edit takes about {alone:.1f} s here even alone, but has to be done in "
                f"{limit:g} s; take fewer steps or allow more time.",
            )
        excess = max(backlog + work - self.settings.max_queue_seconds, backlog + alone - limit)
        if backlog > 0 and excess > 0:
            raise self._late(backlog, excess)
        job = Job(
            order,
            work,
            time.monotonic() + limit,
            mask_only=mask_only,
            request_id=request_id,
            owner=owner,
            name=self._name,
        )
        self.jobs[job.id] = job
        self.waiting.append(job)
        self.count("accepted")
        job.task = asyncio.create_task(self._serve(job), name=f"job {job.id}")
        return job

    def position(self, job: Job) -> int:
        """How many are served before it, among those that wait; 0 once it is served."""
        return self.waiting.index(job) + 1 if job in self.waiting else 0

    def count(self, name: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1

    async def check(self, order: EditForm) -> None:
        """Raise ApiError for what its pictures' headers tell."""
        await self._in_pool(image_codec.check_order, order, self.settings)

    # -- serving --------------------------------------------------------------------------------

    async def _serve(self, job: Job) -> None:
        """From its acceptance to its end, whatever end."""
        began = time.monotonic()
        state: State = "succeeded"
        try:
            async with asyncio.timeout_at(_loop_time(job.deadline)):
                self._next()
                if not job.turn.is_set():
                    job.tell("state", state="queued", position=self.position(job))
                await job.turn.wait()
                job.seconds["queue"] = time.monotonic() - began
                opened = await self._in_pool(image_codec.open_order, job.order, self.settings)
                job.seconds["open"] = time.monotonic() - began - job.seconds["queue"]
                job.mask_read_as = opened.mask_read_as
                pipe = await self.engine_host.enter()
                try:
                    await self._edit(job, opened, pipe)
                finally:
                    self.engine_host.leave()
        except asyncio.CancelledError:
            state, job.error = "cancelled", ApiError(410, "cancelled", "The edit was cancelled.")
        except TimeoutError:
            state = "failed"
            job.error = ApiError(
                503,
                "deadline_exceeded",
                "The edit was not done in the time it was given, and was stopped; try again later "
                "or allow more.",
                retry_after=self.backlog or 1,
            )
        except Exception as error:
            state, job.error = "failed", self._error(job, error)
        finally:
            for pending in job.pendings:
                pending.cancel()
            for drawing in job.drawings:
                drawing.cancel()
            job.pendings.clear()
            job.seconds["total"] = time.monotonic() - began
            self._end(job, state)

    async def _edit(self, job: Job, opened: DecodedOrder, pipe: DiffEditPipeline) -> None:
        job.state = "running"
        job.tell("state", state="running", position=0)
        assert self.engine_host.costs is not None  # it was admitted by them
        colours = self.engine_host.costs.colours
        watchers = [
            ProgressReporter(job, place, request, colours, self.pool)
            for place, request in enumerate(opened.requests)
        ]
        for request, watcher in zip(opened.requests, watchers, strict=True):
            start = partial(
                pipe.submit, callback=watcher.rows, on_preview=watcher.show, mask_only=job.mask_only
            )
            pending = await self._in_pool(start, request)
            watcher.pending.set_result(pending)
            job.pendings.append(pending)
        for pending in list(job.pendings):
            await self._engine(pending)
        await asyncio.gather(*job.drawings)
        began = time.monotonic()
        job.stage, factor = "writing", pipe.checkpoint.family.factor
        job.tell("progress", stage="writing", progress=round(job.progress, 4))
        job.answers = [
            await self._in_pool(
                lambda p=p: image_codec.answer(opened, p.result(), job.order, factor)
            )
            for p in job.pendings
        ]
        job.seconds["encode"] = time.monotonic() - began

    async def _engine(self, pending: EditHandle) -> None:
        """Wait for the networks, or for the news that they are lost."""
        future = asyncio.wrap_future(pending.future)
        while not future.done():
            await asyncio.wait([future], timeout=0.1)
            if self.engine_host.broken:
                raise ApiError(503, "engine_lost", self.engine_host.broken, retry_after=10)
        await future

    def _error(self, job: Job, error: Exception) -> ApiError:
        told = api_error(error)
        if poisons(error):
            self.engine_host.break_down("The GPU reported an error that outlasts the call.")
            told = ApiError(503, "engine_lost", str(self.engine_host.broken), retry_after=10)
        if told.code in ("internal_error", "model_unavailable"):  # whose answers name the log
            log.error("request %s failed", job.request_id, exc_info=error)
        self.count(f"error {told.code}")
        return told

    def _end(self, job: Job, state: State) -> None:
        job.state, job.stage, job.finished_at = state, state, time.monotonic()
        job.order = EditForm(b"", None, {}, output_format=job.order.output_format)  # pictures go
        if state == "succeeded":
            job.progress = 1.0
        self.active.discard(job)
        with contextlib.suppress(ValueError):
            self.waiting.remove(job)
        self.count(state)
        told = {"error": job.error.body["error"]} if job.error else {}
        job.tell("done", state=state, **told)
        self._next()
        self.sweep()
        self.on_end(job)

    def _next(self) -> None:
        """Give free places to those who have waited longest."""
        moved = False
        while self.waiting and len(self.active) < self.settings.max_active:
            job = self.waiting.popleft()
            self.active.add(job)
            job.turn.set()
            moved = True
        if moved:
            for place, job in enumerate(self.waiting, 1):
                job.tell("state", state="queued", position=place)

    async def _in_pool(self, call: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.pool, call, *arguments)

    # -- afterwards -----------------------------------------------------------------------------

    def find(self, job_id: str, owner: str | None = None) -> Job:
        """A job by its id; 404 where there is none, none any more, or another key's."""
        self.sweep()
        job = self.jobs.get(job_id)
        if job is None or job.owner != owner:
            raise ApiError(404, "no_such_job", "There is no such job, or no longer.", "job_id")
        return job

    def forget(self, job: Job) -> None:
        """Drop a job that nobody will ask for."""
        self.jobs.pop(job.id, None)

    async def cancel(self, job: Job) -> None:
        """End a job; returns once its place is free. A finished one stays as it is."""
        if job.task is not None and not job.over:
            for pending in job.pendings:
                pending.cancel()
            job.task.cancel()
            await job.wait()

    async def drain(self, seconds: float) -> bool:
        """Take nothing more and wait for what is under way; False where some had to be ended."""
        self.draining = True
        jobs = [job for job in self.jobs.values() if not job.over]
        if jobs:
            await asyncio.wait([_task(job) for job in jobs], timeout=seconds)
        late = [job for job in jobs if not job.over]
        for job in late:
            await self.cancel(job)
        return not late

    def sweep(self) -> None:
        """Forget results that are too old, and the oldest while they are too many."""
        now, limits = time.monotonic(), self.settings
        done = [(job.finished_at, job) for job in self.jobs.values() if job.finished_at is not None]
        kept = sum(job.size for _, job in done)
        for finished, job in sorted(done, key=lambda pair: pair[0]):
            many = kept > limits.result_bytes or len(self.jobs) > MAX_JOBS
            if not many and now - finished <= limits.result_seconds:
                return
            kept -= job.size
            del self.jobs[job.id]


def _task(job: Job) -> asyncio.Task[None]:
    assert job.task is not None
    return job.task


def _loop_time(deadline: float) -> float:
    """time.monotonic's clock in the loop's."""
    return asyncio.get_running_loop().time() + deadline - time.monotonic()
