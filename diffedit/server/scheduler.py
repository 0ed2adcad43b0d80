"""Admission, queue, deadlines, cancellation and draining of jobs.

Everything here runs on the event loop. `job_runner` does the work of a job, and `job_store` keeps
its results.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from diffedit.server import admission
from diffedit.server.earlier_results import with_earlier_results
from diffedit.server.engine_host import EngineHost
from diffedit.server.errors import (
    ApiError,
    deadline_exceeded,
    draining,
    engine_lost,
    is_device_failure,
    not_ready,
    to_api_error,
)
from diffedit.server.fair_queue import fair_seconds
from diffedit.server.forms import EditForm
from diffedit.server.job_runner import JobRunner
from diffedit.server.job_store import JobStore
from diffedit.server.jobs import Job, State
from diffedit.server.quotas import Quotas
from diffedit.server.sending import Sending
from diffedit.server.settings import Settings
from diffedit.server.slots import Slots
from diffedit.server.tracing import Tracer

log = logging.getLogger(__name__)

LOGGED_ERRORS = ("internal_error", "model_unavailable", "out_of_memory")
"""Error codes of faults of the server; the exception is logged with its stack trace."""


class Scheduler:
    """Admits jobs and runs at most `max_active` of them at a time, in order.

    Attributes:
        leaving: whether the server shuts down, and is not ready any more.
        draining: whether new jobs are refused for this reason.
        event_counts: event -> count, for the metrics.
        slots: the places of running jobs and the queue.
        active, waiting: the running and the queued jobs.
        quotas: of the API keys.
        sending: the jobs whose results are being sent.
        store: every job by id.
        runner: runs jobs.
        tracer: records the spans of finished jobs.
        on_finish: called with each finished job.
        on_error: called with the exception of each failed job.
    """

    def __init__(
        self, engine_host: EngineHost, settings: Settings, replica_name: str | None = None
    ) -> None:
        self._engine_host, self._settings = engine_host, settings
        self._replica_name = replica_name
        self.leaving = self.draining = False
        self.event_counts: Counter[str] = Counter()
        self.slots = Slots(settings)
        self.active, self.waiting = self.slots.active, self.slots.waiting
        self.quotas = Quotas(settings)
        self.sending = Sending()
        self.store = JobStore(settings)
        self.runner = JobRunner(engine_host, settings)
        self.tracer = Tracer()
        self.on_finish: Callable[[Job], None] = lambda job: None
        self.on_error: Callable[[Exception], None] = lambda error: None

    def count_event(self, name: str) -> None:
        self.event_counts[name] += 1

    # -- admission ---------------------------------------------------------------------------------

    @property
    def backlog_seconds(self) -> float:
        """Predicted seconds of work left in the running and queued jobs."""
        return sum(job.remaining_seconds for job in self.slots.unfinished)

    @property
    def held_bytes(self) -> int:
        """Predicted bytes of the running and queued jobs, and of results that are being sent."""
        return sum(job.predicted_bytes for job in self.slots.unfinished) + self.sending.bytes

    def check_accepting(self, owner: str | None = None) -> None:
        """Raise ApiError if no job of an owner can be admitted now: 503 or 429."""
        if self._engine_host.failure_reason:
            raise engine_lost(self._engine_host.failure_reason)
        if self.draining:
            raise draining()
        if self._engine_host.cost_model is None:
            raise not_ready(retry_after=5)
        with self._counting_refusals():
            self.quotas.check(owner, self._held_edits(owner))
            backlog, starts_now = self.backlog_of(owner), self.slots.may_start(owner)
            admission.check_queue(
                self.waiting, owner, backlog, self._settings, starts_now=starts_now
            )

    def backlog_of(self, owner: str | None, work_seconds: float = 0.0) -> float:
        """Predicted seconds until a further job of an owner begins, see `fair_seconds`."""
        left = ((job.owner, job.remaining_seconds) for job in self.slots.unfinished)
        return fair_seconds(owner, left, work_seconds)

    def _held_edits(self, owner: str | None) -> int:
        return sum(job.form.n for job in self.slots.unfinished if job.owner == owner)

    @contextlib.contextmanager
    def _counting_refusals(self) -> Iterator[None]:
        try:
            yield
        except ApiError as error:
            if error.status == 429:
                self.count_event("refused")
            raise

    def admit(
        self,
        form: EditForm,
        *,
        mask_only: bool = False,
        timeout: float | None,
        request_id: str,
        owner: str | None = None,
        trace_context: Any = None,
    ) -> Job:
        """Create a job and start or queue it.

        Args:
            form: what to do.
            mask_only: find the mask and stop.
            timeout: the client's time limit in seconds, or None; `request_seconds` is the maximum.
            request_id: for the log.
            owner: name of the API key.
            trace_context: the client's trace, see `tracing`.

        Raises ApiError: 404 for an id in the form without a result, 503 if the server is not ready
        or shutting down, 429 if the queue is full, 400 if the edit could not meet the time limit on
        an idle server, 413 if it needs more memory than the server allows.
        """
        self.check_accepting(owner)
        self.store.sweep()
        form = with_earlier_results(form, self.store, owner)
        limit = min(timeout or self._settings.request_seconds, self._settings.request_seconds)
        with self._counting_refusals():
            self.quotas.check(owner, self._held_edits(owner), form.n)
            predicted_bytes = admission.check_memory(
                form, self.held_bytes, self.backlog_seconds, self._settings
            )
            assert self._engine_host.cost_model is not None  # check_accepting
            work_seconds = admission.check_time(
                self._engine_host.cost_model,
                form.checked_request(),
                form.n,
                form.image_size,
                mask_only=mask_only,
                limit=limit,
                backlog=partial(self.backlog_of, owner),
                settings=self._settings,
            )
        job = Job(
            form,
            work_seconds,
            time.monotonic() + limit,
            predicted_bytes=predicted_bytes,
            mask_only=mask_only,
            request_id=request_id,
            owner=owner,
            trace_context=trace_context,
            replica_name=self._replica_name,
        )
        self.quotas.count(owner, form.n)
        self.store.add(job)
        self.waiting.append(job)
        self.count_event("accepted")
        job.task = asyncio.create_task(self._run(job), name=f"job {job.id}")
        job.task.add_done_callback(lambda _: self._finish_unstarted(job))
        return job

    # -- running -----------------------------------------------------------------------------------

    async def _run(self, job: Job) -> None:
        """Wait for a slot, run the job, and record how it ended."""
        began = time.monotonic()
        state: State = "succeeded"
        try:
            async with asyncio.timeout(job.deadline - time.monotonic()):
                self.slots.grant()
                if not job.slot_granted.is_set():
                    job.emit("state", state="queued", position=self.slots.position(job))
                await job.slot_granted.wait()
                job.timings["queue"] = time.monotonic() - began
                await self.runner.run(job)
        except asyncio.CancelledError:
            state, job.error = job.end_of_cancelled()
            if state == "failed":
                self.count_event(f"error {job.error.code}")
        except TimeoutError:
            state, job.error = "failed", deadline_exceeded(self.backlog_seconds)
        except Exception as error:
            state, job.error = "failed", self._to_api_error(job, error)
        finally:
            job.timings["total"] = time.monotonic() - began
            self._finish(job, state)

    def _to_api_error(self, job: Job, error: Exception) -> ApiError:
        api_error = to_api_error(error)
        self.on_error(error)
        if is_device_failure(error):
            self._engine_host.mark_failed("The GPU reported an error it cannot recover from.")
        self._engine_host.check_alive()  # a dead engine thread fails every job with its own error
        if self._engine_host.failure_reason and api_error.status >= 410:
            api_error = engine_lost(self._engine_host.failure_reason)
        if api_error.param == "image":
            api_error.param = job.form.image_field
        if api_error.code in LOGGED_ERRORS:
            log.error("request %s failed", job.request_id, exc_info=error)
        self.count_event(f"error {api_error.code}")
        return api_error

    def _finish(self, job: Job, state: State) -> None:
        job.state, job.stage, job.finished_at = state, state, time.monotonic()
        job.form = replace(job.form, image=b"", mask=None, parameters={})  # frees the images
        if state == "succeeded":
            job.progress = 1.0
        self.slots.release(job)
        self.count_event(state)
        error = {"error": job.error.body["error"]} if job.error else {}
        job.emit("done", state=state, **error)
        self.slots.grant()
        self.store.measure(job)
        self.store.sweep()
        self.on_finish(job)
        self.tracer.record(job)

    def _finish_unstarted(self, job: Job) -> None:
        """Finish a job whose task was cancelled before its first step."""
        if not job.finished:
            state, job.error = job.end_of_cancelled()
            self._finish(job, state)

    # -- ending ------------------------------------------------------------------------------------

    def request_cancel(self, job: Job, reason: ApiError | None = None) -> None:
        """Ask a job to end. A finished job is left unchanged.

        Args:
            job: the job.
            reason: the error that it ends with; by default, that the client cancelled it.
        """
        if job.task is not None and not job.finished:
            job.cancelling, job.cancel_reason = True, job.cancel_reason or reason
            for handle in job.handles:
                handle.cancel()
            job.task.cancel()

    async def cancel(self, job: Job, reason: ApiError | None = None) -> None:
        """Cancel a job, see `request_cancel`, and wait until its slot is free."""
        self.request_cancel(job, reason)
        await job.wait()

    def end_all(self, reason: ApiError) -> None:
        """Ask every running and queued job to end with an error."""
        for job in self.slots.unfinished:
            self.request_cancel(job, reason)

    async def drain(self, seconds: float) -> bool:
        """Refuse new jobs and wait for the others. Returns False if some did not finish in time;
        those end with 503 and `draining`."""
        self.leaving = self.draining = True
        jobs = self.slots.unfinished
        if tasks := [job.task for job in jobs if job.task is not None]:
            await asyncio.wait(tasks, timeout=seconds)
        unfinished = [job for job in jobs if not job.finished]
        await asyncio.gather(*(self.cancel(job, draining()) for job in unfinished))
        return not unfinished
