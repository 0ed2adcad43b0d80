"""Jobs by id. Finished jobs expire by age, by the size of their results, and by number."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator

from diffedit.server.errors import ApiError
from diffedit.server.jobs import Job
from diffedit.server.settings import Settings

MAX_JOBS = 10_000


class JobStore:
    """The running jobs and the finished ones whose results can still be fetched.

    A job belongs to the API key that created it; other keys cannot see it.

    Attributes:
        stored_bytes: bytes of the results of all finished jobs.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._jobs: dict[str, Job] = {}
        self._finished: OrderedDict[str, int] = OrderedDict()  # id -> bytes, oldest first
        self.stored_bytes = 0

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        return iter(list(self._jobs.values()))

    def add(self, job: Job) -> None:
        self._jobs[job.id] = job

    def measure(self, job: Job) -> None:
        """Count the results of a job. Call it when the job has finished, and if they grow."""
        if job.id in self._jobs:
            size = job.size
            self.stored_bytes += size - self._finished.get(job.id, 0)
            self._finished[job.id] = size

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
        if self._jobs.pop(job.id, None) is not None:
            self.stored_bytes -= self._finished.pop(job.id, 0)

    def sweep(self) -> None:
        """Remove expired jobs, and the oldest ones while a bound is exceeded."""
        now = time.monotonic()
        while self._finished:
            job = self._jobs[next(iter(self._finished))]
            over_bounds = self.stored_bytes > self._settings.result_bytes or len(self) > MAX_JOBS
            age = now - (job.finished_at or now)
            if not over_bounds and age <= self._settings.result_seconds:
                return
            self.discard(job)
