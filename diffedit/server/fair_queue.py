"""The queue of jobs. API keys take turns, so a key with many jobs does not delay the others."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator

from diffedit.server.jobs import Job

Owner = str | None
"""The name of an API key; None without keys."""


class FairQueue:
    """Queued jobs. Each owner has its own queue, oldest first.

    The next job is from the owner with the fewest running jobs. If several have the fewest, it is
    from the one that was served least recently.
    """

    def __init__(self) -> None:
        self._jobs: dict[Owner, deque[Job]] = {}  # in the order of turns

    def __len__(self) -> int:
        return sum(map(len, self._jobs.values()))

    def __contains__(self, job: Job) -> bool:
        return job in self._jobs.get(job.owner, ())

    def __iter__(self) -> Iterator[Job]:
        """Every job, in no particular order."""
        return iter([job for jobs in self._jobs.values() for job in jobs])

    @property
    def owners(self) -> set[Owner]:
        """The owners with queued jobs."""
        return set(self._jobs)

    def of(self, owner: Owner) -> int:
        """Number of an owner's jobs."""
        return len(self._jobs.get(owner, ()))

    def append(self, job: Job) -> None:
        self._jobs.setdefault(job.owner, deque()).append(job)

    def remove(self, job: Job) -> None:
        """Remove a job, if it is queued."""
        if job in self:
            self._jobs[job.owner].remove(job)
            if not self._jobs[job.owner]:
                del self._jobs[job.owner]

    def pop(self, running: Iterable[Job], limit: int | None = None) -> Job | None:
        """Remove and return the next job. Its owner moves to the end of the order of turns.

        Args:
            running: the running jobs.
            limit: maximum number of jobs that one owner may run. None: no limit.

        Returns None if every owner has reached the limit.
        """
        counts = Counter(job.owner for job in running)
        free = [o for o in self._jobs if o is None or limit is None or counts[o] < limit]
        if not free:
            return None
        owner = min(free, key=lambda name: counts[name])  # the first of several
        jobs = self._jobs.pop(owner)
        job = jobs.popleft()
        if jobs:
            self._jobs[owner] = jobs
        return job

    def in_order(self, running: Iterable[Job]) -> list[Job]:
        """Every job, in the order in which `pop` returns them while no running job ends."""
        rest, order = FairQueue(), list(running)
        begin = len(order)
        rest._jobs = {owner: deque(jobs) for owner, jobs in self._jobs.items()}
        while (job := rest.pop(order)) is not None:
            order.append(job)
        return order[begin:]


def fair_seconds(
    owner: Owner, left: Iterable[tuple[Owner, float]], work_seconds: float = 0.0
) -> float:
    """Predicted seconds until another job of an owner begins, if the owners take turns.

    Before the new job begins, each other owner gets at most as much time as the owner's jobs and
    the new one need.

    Args:
        owner: the owner of the new job.
        left: owner and seconds of work of every unfinished job.
        work_seconds: seconds of work of the new job.
    """
    backlog: defaultdict[Owner, float] = defaultdict(float)
    for name, seconds in left:
        backlog[name] += seconds
    own = backlog.pop(owner, 0.0)
    return own + sum(min(other, own + work_seconds) for other in backlog.values())
