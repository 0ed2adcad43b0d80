"""One order from its acceptance to its answer, and what is told of it meanwhile.

Everything here runs on the event loop; it decides nothing.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Literal

from diffedit.handle import EditHandle
from diffedit.server.errors import ApiError
from diffedit.server.forms import EditForm
from diffedit.server.image_codec import EncodedEdit

State = Literal["queued", "running", "succeeded", "failed", "cancelled"]
MAX_EVENTS = 256


class Job:
    """One order under way, or finished.

    Attributes:
        id: made here, unguessable; behind the name of the server that has it, if it has one.
        state, stage, progress: where it stands; progress in [0, 1].
        answers: the finished edits. error: why there are none.
        seconds: "queue", "open", "encode" and "total", of the front alone.
    """

    def __init__(
        self,
        order: EditForm,
        work: float,
        deadline: float,
        *,
        mask_only: bool,
        request_id: str,
        owner: str | None,
        name: str | None = None,
    ) -> None:
        token = secrets.token_hex(12)
        self.id = f"{name}-{token}" if name else token
        self.order, self.work, self.mask_only = order, work, mask_only
        self.request_id, self.owner = request_id, owner
        self.created, self.deadline = time.time(), deadline
        self.state: State = "queued"
        self.stage = "queued"
        self.progress = 0.0
        self.answers: list[EncodedEdit] = []
        self.mask_read_as: str | None = None
        self.error: ApiError | None = None
        self.seconds: dict[str, float] = {}
        self.pendings: list[EditHandle] = []
        self.shares: dict[int, float] = {}
        self.drawings: list[asyncio.Task[None]] = []
        self.task: asyncio.Task[None] | None = None
        self.turn = asyncio.Event()
        self.finished_at: float | None = None
        self._events: deque[tuple[int, str, dict[str, Any]]] = deque(maxlen=MAX_EVENTS)
        self._number = 0
        self._news = asyncio.Event()

    @property
    def over(self) -> bool:
        return self.state in ("succeeded", "failed", "cancelled")

    @property
    def left(self) -> float:
        """Seconds of work still to be done."""
        return 0.0 if self.over else self.work * (1 - self.progress)

    @property
    def size(self) -> int:
        """Bytes that its pictures take."""
        previews = sum(len(data.get("image", "")) for _, _, data in self._events)
        return previews + sum(answer.size for answer in self.answers)

    def tell(self, event: str, **data: Any) -> None:
        """Add an event for whoever listens; of progress only the newest is kept."""
        if event == "progress" and self._events and self._events[-1][1] == "progress":
            self._events.pop()
        self._number += 1
        self._events.append((self._number, event, data))
        self._news.set()
        self._news = asyncio.Event()

    async def events(self, after: int = 0) -> AsyncIterator[tuple[int, str, dict[str, Any]]]:
        """Every event past a number, then what comes, until the job is over."""
        while True:
            news, over = self._news, self.over
            for number, event, data in [e for e in self._events if e[0] > after]:
                after = number
                yield number, event, data
            if over:
                return
            await news.wait()

    async def wait(self) -> None:
        """Until it is over, whoever else waits."""
        async for _ in self.events():
            pass
