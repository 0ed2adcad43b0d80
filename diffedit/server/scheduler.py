"""Admission, queue, deadlines, cancellation and draining of jobs.

Everything here runs on the event loop. `job_runner` does the work of a job, and `job_store` keeps
its results.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter, deque
from collections.abc import Callable

from diffedit.request import EditRequest
from diffedit.server.engine_host import EngineHost
from diffedit.server.errors import (
    ApiError,
    draining,
    engine_lost,
    is_device_failure,
    not_ready,
    to_api_error,
)
from diffedit.server.forms import EditForm
from diffedit.server.job_runner import JobRunner
from diffedit.server.job_store import JobStore
from diffedit.server.jobs import Job, State
from diffedit.server.settings import Settings

log = logging.getLogger(__name__)

LOGGED_ERRORS = ("internal_error", "model_unavailable")
"""Error codes whose messages refer to the log; the exception is logged with its stack trace."""


class Scheduler:
    """Admits jobs and runs at most `max_active` of them at a time, in order.

    Attributes:
        draining: whether new jobs are refused because the server shuts down.
        event_counts: event -> count, for the metrics.
        active, waiting: the running and the queued jobs.
        store: every job by id.
        runner: runs jobs.
        on_finish: called with each finished job.
    """

    def __init__(
        self, engine_host: EngineHost, settings: Settings, replica_name: str | None = None
    ) -> None:
        self._engine_host, self._settings = engine_host, settings
        self._replica_name = replica_name
        self.draining = False
        self.event_counts: Counter[str] = Counter()
        self.active: set[Job] = set()
        self.waiting: deque[Job] = deque()
        self.store = JobStore(settings)
        self.runner = JobRunner(engine_host, settings)
        self.on_finish: Callable[[Job], None] = lambda job: None

    def count_event(self, name: str) -> None:
        self.event_counts[name] += 1

    # -- admission ---------------------------------------------------------------------------------

    @property
    def backlog_seconds(self) -> float:
        """Predicted seconds of work left in the running and queued jobs."""
        return sum(job.remaining_seconds for job in [*self.active, *self.waiting])

    def check_accepting(self) -> None:
        """Raise ApiError if no job can be admitted now: 503 or 429."""
        if self._engine_host.failure_reason:
            raise engine_lost(self._engine_host.failure_reason)
        if self.draining:
            raise draining()
        if self._engine_host.cost_model is None:
            raise not_ready(retry_after=5)
        settings, backlog = self._settings, self.backlog_seconds
        slots_full = len(self.active) >= settings.max_active
        if slots_full and len(self.waiting) >= settings.max_waiting:
            message = f"{len(self.waiting)} edits are queued already; try again a little later."
            raise self._queue_full(message, retry_after=backlog / 2)
        if self.active and backlog > settings.max_queue_seconds:
            raise self._backlog_too_long(backlog, retry_after=backlog - settings.max_queue_seconds)

    def admit(
        self,
        form: EditForm,
        *,
        mask_only: bool = False,
        timeout: float | None,
        request_id: str,
        owner: str | None = None,
    ) -> Job:
        """Create a job and start or queue it.

        Args:
            form: what to do.
            mask_only: find the mask and stop.
            timeout: the client's time limit in seconds, or None; `request_seconds` is the maximum.
            request_id: for the log.
            owner: name of the API key.

        Raises ApiError: 503 if the server is not ready or shutting down, 429 if the queue is full,
        400 if the edit could not meet the time limit on an idle server.
        """
        self.check_accepting()
        requests = form.requests(b"", b"" if form.mask is not None else None)
        limit = min(timeout or self._settings.request_seconds, self._settings.request_seconds)
        job = Job(
            form,
            self._check_time(requests, limit, mask_only=mask_only),
            time.monotonic() + limit,
            mask_only=mask_only,
            request_id=request_id,
            owner=owner,
            replica_name=self._replica_name,
        )
        self.store.add(job)
        self.waiting.append(job)
        self.count_event("accepted")
        job.task = asyncio.create_task(self._run(job), name=f"job {job.id}")
        return job

    def _check_time(self, requests: list[EditRequest], limit: float, *, mask_only: bool) -> float:
        """Return the predicted work in seconds. Raises ApiError if it does not fit the limits."""
        cost_model, backlog = self._engine_host.cost_model, self.backlog_seconds
        assert cost_model is not None  # check_accepting
        work = sum(cost_model.work_seconds(r, mask_only=mask_only) for r in requests)
        latency = max(cost_model.latency_seconds(requests[0], mask_only=mask_only), work)
        if latency > limit:
            raise ApiError(
                400,
                "deadline_impossible",
                f"This edit takes about {latency:.1f} s even on an idle server, but its time limit "
                f"is {limit:g} s; use fewer steps or allow more time.",
            )
        excess = max(backlog + work - self._settings.max_queue_seconds, backlog + latency - limit)
        if backlog > 0 and excess > 0:
            raise self._backlog_too_long(backlog, retry_after=excess)
        return work

    def _backlog_too_long(self, backlog: float, *, retry_after: float) -> ApiError:
        message = f"The queue holds {backlog:.0f} s of work; try again a little later."
        return self._queue_full(message, retry_after=retry_after)

    def _queue_full(self, message: str, *, retry_after: float) -> ApiError:
        self.count_event("refused")
        return ApiError(429, "queue_full", message, retry_after=retry_after)

    # -- running -----------------------------------------------------------------------------------

    def queue_position(self, job: Job) -> int:
        """Return 1 for the next job in the queue, 0 for a job that has left it."""
        return self.waiting.index(job) + 1 if job in self.waiting else 0

    async def _run(self, job: Job) -> None:
        """Wait for a slot, run the job, and record how it ended."""
        began = time.monotonic()
        state: State = "succeeded"
        try:
            async with asyncio.timeout_at(_to_loop_time(job.deadline)):
                self._grant_slots()
                if not job.slot_granted.is_set():
                    job.emit("state", state="queued", position=self.queue_position(job))
                await job.slot_granted.wait()
                job.timings["queue"] = time.monotonic() - began
                await self.runner.run(job)
        except asyncio.CancelledError:
            state = "cancelled"
            message = "The edit was cancelled; send it again if you need it."
            job.error = ApiError(410, "cancelled", message)
        except TimeoutError:
            state, job.error = "failed", self._deadline_exceeded()
        except Exception as error:
            state, job.error = "failed", self._to_api_error(job, error)
        finally:
            job.timings["total"] = time.monotonic() - began
            self._finish(job, state)

    def _deadline_exceeded(self) -> ApiError:
        return ApiError(
            503,
            "deadline_exceeded",
            "The edit did not finish within its time limit and was stopped; try again later or "
            "allow more time.",
            retry_after=self.backlog_seconds or 1,
        )

    def _to_api_error(self, job: Job, error: Exception) -> ApiError:
        api_error = to_api_error(error)
        if is_device_failure(error):
            self._engine_host.mark_failed("The GPU reported an error it cannot recover from.")
            api_error = engine_lost(str(self._engine_host.failure_reason))
        if api_error.code in LOGGED_ERRORS:
            log.error("request %s failed", job.request_id, exc_info=error)
        self.count_event(f"error {api_error.code}")
        return api_error

    def _finish(self, job: Job, state: State) -> None:
        job.state, job.stage, job.finished_at = state, state, time.monotonic()
        job.form = EditForm(b"", None, {}, output_format=job.form.output_format)  # frees the images
        if state == "succeeded":
            job.progress = 1.0
        self.active.discard(job)
        with contextlib.suppress(ValueError):
            self.waiting.remove(job)
        self.count_event(state)
        error = {"error": job.error.body["error"]} if job.error else {}
        job.emit("done", state=state, **error)
        self._grant_slots()
        self.store.sweep()
        self.on_finish(job)

    def _grant_slots(self) -> None:
        """Give free slots to the jobs that have waited longest."""
        granted = False
        while self.waiting and len(self.active) < self._settings.max_active:
            job = self.waiting.popleft()
            self.active.add(job)
            job.slot_granted.set()
            granted = True
        if granted:
            for position, job in enumerate(self.waiting, 1):
                job.emit("state", state="queued", position=position)

    # -- ending ------------------------------------------------------------------------------------

    async def cancel(self, job: Job) -> None:
        """Cancel a job and wait until its slot is free. A finished job is left unchanged."""
        if job.task is not None and not job.finished:
            for handle in job.handles:
                handle.cancel()
            job.task.cancel()
            await job.wait()

    async def drain(self, seconds: float) -> bool:
        """Refuse new jobs and wait for the others. Returns False if some had to be cancelled."""
        self.draining = True
        jobs = [job for job in self.store if not job.finished]
        if tasks := [job.task for job in jobs if job.task is not None]:
            await asyncio.wait(tasks, timeout=seconds)
        unfinished = [job for job in jobs if not job.finished]
        for job in unfinished:
            await self.cancel(job)
        return not unfinished


def _to_loop_time(deadline: float) -> float:
    """Convert a time on `time.monotonic`'s clock to the event loop's clock."""
    return asyncio.get_running_loop().time() + deadline - time.monotonic()
