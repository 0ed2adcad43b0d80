"""Count the jobs whose results are being sent: they use memory until the client has read them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from diffedit.server.jobs import Job


class Sending:
    """Counts the responses of each job that are being sent."""

    def __init__(self) -> None:
        self._jobs: Counter[Job] = Counter()

    @property
    def bytes(self) -> int:
        """Bytes of the results that are being sent."""
        return sum(job.size for job in self._jobs if job.finished)

    @contextmanager
    def results_of(self, job: Job) -> Iterator[None]:
        """Count the results of a job during the block."""
        self._jobs[job] += 1
        try:
            yield
        finally:
            self._jobs[job] -= 1
            if not self._jobs[job]:
                del self._jobs[job]
