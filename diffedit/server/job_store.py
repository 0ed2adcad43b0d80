"""Jobs by id. Finished jobs expire by age, by the size of their results, and by number."""

from __future__ import annotations

import time
from collections.abc import Iterator

from diffedit.server.errors import ApiError
from diffedit.server.jobs import Job
from diffedit.server.settings import Settings

MAX_JOBS = 10_000


class JobStore:
    """The running jobs and the finished ones whose results can still be fetched.

    A job belongs to the API key that created it; other keys cannot see it.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._jobs: dict[str, Job] = {}

    def __iter__(self) -> Iterator[Job]:
        return iter(list(self._jobs.values()))

    def add(self, job: Job) -> None:
        self._jobs[job.id] = job

    def get(self, job_id: str) -> Job | None:
        """Return the job, or None if it is unknown or expired."""
        return self._jobs.get(job_id)

    def find(self, job_id: str, owner: str | None = None) -> Job:
        """Return the job of this owner. Raises ApiError (404) if there is none."""
        self.sweep()
        job = self.get(job_id)
        if job is None or job.owner != owner:
            message = "There is no job with this id, or its results have expired; submit it again."
            raise ApiError(404, "no_such_job", message, "job_id")
        return job

    def discard(self, job: Job) -> None:
        """Remove a job and its results."""
        self._jobs.pop(job.id, None)

    def sweep(self) -> None:
        """Remove expired jobs, and the oldest ones while a bound is exceeded."""
        now = time.monotonic()
        finished = [(job.finished_at, job) for job in self if job.finished_at is not None]
        stored_bytes = sum(job.size for _, job in finished)
        for finished_at, job in sorted(finished, key=lambda pair: pair[0]):
            over_bounds = stored_bytes > self._settings.result_bytes or len(self._jobs) > MAX_JOBS
            if not over_bounds and now - finished_at <= self._settings.result_seconds:
                return
            stored_bytes -= job.size
            self.discard(job)
