"""The slots of running jobs, and the choice of the next job."""

from __future__ import annotations

from collections.abc import Callable

from diffedit.server.fair_queue import FairQueue, Owner
from diffedit.server.jobs import Job
from diffedit.server.settings import Settings


class Slots:
    """At most `max_active` running jobs, and the queue of the others.

    If there are several API keys, each leaves a slot free for the others, so that no key waits for
    all running edits of another.

    Attributes:
        active, waiting: the running and the queued jobs.
        several_owners: returns whether there are several API keys. Without keys it does not matter.
    """

    def __init__(self, settings: Settings) -> None:
        self._max_active = settings.max_active
        self.active: set[Job] = set()
        self.waiting = FairQueue()
        self.several_owners: Callable[[], bool] = lambda: True

    @property
    def unfinished(self) -> list[Job]:
        """The running and the queued jobs."""
        return [*self.active, *self.waiting]

    def may_start(self, owner: Owner) -> bool:
        """Whether a job of this owner would run at once."""
        limit = self._limit
        held = sum(job.owner == owner for job in self.active)
        free = len(self.active) < self._max_active
        return free and (owner is None or limit is None or held < limit)

    def grant(self) -> None:
        """Assign free slots to the next jobs, and update the positions of the others."""
        granted = False
        while len(self.active) < self._max_active:
            job = self.waiting.pop(self.active, self._limit)
            if job is None:
                break
            self.active.add(job)
            job.slot_granted.set()
            granted = True
        if granted:
            for position, job in enumerate(self.waiting.in_order(self.active), 1):
                job.emit("state", state="queued", position=position)

    def release(self, job: Job) -> None:
        """Free a job's slot, or its place in the queue."""
        self.active.discard(job)
        self.waiting.remove(job)

    def position(self, job: Job) -> int:
        """1 for the next job in the queue, 0 for a job that has left it."""
        return self.waiting.in_order(self.active).index(job) + 1 if job in self.waiting else 0

    @property
    def _limit(self) -> int | None:
        """Maximum number of jobs that one API key may run."""
        return self._max_active - 1 if self._max_active > 1 and self.several_owners() else None
