"""The state of one request from admission to response, and its event history.

Everything here runs on the event loop. A `Job` stores state and events; `scheduler` and
`job_runner` change them.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from typing import Any, Literal

from diffedit.handle import EditHandle
from diffedit.notices import Notice
from diffedit.server.errors import ApiError, cancelled
from diffedit.server.forms import EditForm
from diffedit.server.image_codec import EncodedEdit
from diffedit.server.refinement import RefinedMask, StoredMap

State = Literal["queued", "running", "succeeded", "failed", "cancelled"]
Event = tuple[int, str, dict[str, Any]]
"""(event id, event name, payload)."""
MAX_EVENTS = 256
MAX_REFINED = 32
"""Refined masks of one mask that are stored."""


class Job:
    """One request, running or finished.

    Attributes:
        id: random, unguessable; prefixed with the replica's name if there is one.
        form: what to do. Its images are released when the job finishes.
        work_seconds: predicted seconds of device time.
        predicted_bytes: predicted bytes of its images and results.
        deadline: end of the time limit, on `time.monotonic`'s clock.
        mask_only: find the mask and stop.
        owner: name of the API key, or None.
        trace_context: the client's trace, see `tracing`, or None.
        created: Unix time.
        state, stage: see the API; stage is more detailed while the job runs.
        progress: 0 to 1.
        edits: finished edits, one per image.
        refined: id -> mask made from the first one's heatmap; the newest ones.
        error: the reason of a failure, or None.
        cancel_reason: the error of a cancelled job, or None if the client cancelled it.
        cancelling: whether cancellation was requested.
        clients: number of synchronous requests that wait for the job.
        image_size: (width, height) of the decoded image, or None before.
        notes: warnings about the form.
        timings: stage -> seconds, for the server's own stages: "queue", "open", "encode", "total".
        handles: the submitted edits, while they run.
        preview_tasks: previews in progress.
        task: the task that runs the job.
        slot_granted: set when the job may run.
        finished_at: on `time.monotonic`'s clock, or None.
    """

    def __init__(
        self,
        form: EditForm,
        work_seconds: float,
        deadline: float,
        *,
        predicted_bytes: int = 0,
        mask_only: bool,
        request_id: str,
        owner: str | None,
        trace_context: Any = None,
        replica_name: str | None = None,
    ) -> None:
        token = secrets.token_hex(12)
        self.id = f"{replica_name}-{token}" if replica_name else token
        self.form, self.work_seconds, self.mask_only = form, work_seconds, mask_only
        self.predicted_bytes = predicted_bytes
        self.request_id, self.owner = request_id, owner
        self.trace_context = trace_context
        self.created, self.deadline = time.time(), deadline
        self.state: State = "queued"
        self.stage = "queued"
        self.progress = 0.0
        self.edits: list[EncodedEdit] = []
        self.refined: OrderedDict[str, RefinedMask] = OrderedDict()
        self.mask_read_as: str | None = None
        self.error: ApiError | None = None
        self.cancel_reason: ApiError | None = None
        self.clients = 0
        self.cancelling = False
        self.image_size: tuple[int, int] | None = None
        self.notes = form.notes
        self.timings: dict[str, float] = {}
        self.handles: list[EditHandle] = []
        self.preview_tasks: list[asyncio.Task[None]] = []
        self.task: asyncio.Task[None] | None = None
        self.slot_granted = asyncio.Event()
        self.finished_at: float | None = None
        self._progress_by_edit: dict[int, float] = {}
        self._events: deque[Event] = deque(maxlen=MAX_EVENTS)
        self._last_event_id = 0
        self._new_event = asyncio.Event()

    @property
    def finished(self) -> bool:
        return self.state in ("succeeded", "failed", "cancelled")

    @property
    def remaining_seconds(self) -> float:
        """Predicted seconds of device time left."""
        return 0.0 if self.finished else self.work_seconds * (1 - self.progress)

    def end_of_cancelled(self) -> tuple[State, ApiError]:
        """State and error if the job is cancelled: "cancelled" if the client did, else "failed"."""
        if self.cancel_reason is not None:
            return "failed", self.cancel_reason
        return "cancelled", cancelled()

    @property
    def warnings(self) -> tuple[Notice, ...]:
        """The notes about the form, and the note that its size was ignored."""
        if self.image_size is None or self.form.size == "auto":
            return self.notes
        width, height = self.image_size
        if self.form.size == f"{width}x{height}":
            return self.notes
        note = f"size={self.form.size} was ignored: an edit keeps the image's size, "
        return (*self.notes, Notice("size_ignored", f"{note}{width}x{height}."))

    @property
    def size(self) -> int:
        """Bytes of the stored results and previews."""
        previews = sum(len(payload.get("image", "")) for _, _, payload in self._events)
        refined = sum(refined.size for refined in self.refined.values())
        return previews + refined + sum(edit.size for edit in self.edits)

    def keep_refined(self, refined: RefinedMask) -> str:
        """Store a refined mask and return its id."""
        refined_id = f"{self.id}_{refined.key}{self.suffix(refined.first)}"
        self.refined[refined_id] = refined
        self.refined.move_to_end(refined_id)
        if len(self.refined) > MAX_REFINED:
            self.refined.popitem(last=False)
        return refined_id

    def suffix(self, soft_map: StoredMap) -> str:
        """What follows the job's id in the id of a mask: "", or ".k" for one of several results;
        and "~m" for one of several edits in one pass."""
        suffixes: dict[StoredMap | None, str] = {}
        for k, edit in enumerate(self.edits):
            number = f".{k}" if len(self.edits) > 1 else ""
            suffixes[edit.soft_map] = number
            suffixes |= {part.soft_map: f"{number}~{m}" for m, part in enumerate(edit.parts)}
        return suffixes[soft_map]

    def update_progress(self, edit_index: int, stage: str, progress: float) -> None:
        """Set the progress of one of the n edits, and emit an event."""
        self._progress_by_edit[edit_index] = progress
        self.stage = stage
        self.progress = sum(self._progress_by_edit.values()) / self.form.n
        self.emit("progress", stage=stage, progress=round(self.progress, 4))

    def emit(self, event: str, **payload: Any) -> None:
        """Append an event. Consecutive progress events replace each other."""
        if event == "progress" and self._events and self._events[-1][1] == "progress":
            self._events.pop()
        self._last_event_id += 1
        self._events.append((self._last_event_id, event, payload))
        self._new_event.set()
        self._new_event = asyncio.Event()

    async def events(self, after: int = 0) -> AsyncIterator[Event]:
        """Yield the events with an id above `after`, past and future, until the job finishes."""
        while True:
            new_event, finished = self._new_event, self.finished
            for event in [event for event in self._events if event[0] > after]:
                after = event[0]
                yield event
            if finished:
                return
            await new_event.wait()

    async def wait(self) -> None:
        """Wait until the job has finished."""
        async for _ in self.events():
            pass
