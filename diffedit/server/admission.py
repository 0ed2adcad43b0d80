"""Check whether one more job fits: queue length, predicted seconds of work, predicted memory.

Pure functions of the settings and the current load; `scheduler` calls them.
"""

from __future__ import annotations

from collections.abc import Callable

from diffedit.presets import resolve
from diffedit.request import EditRequest
from diffedit.server.cost_model import CostModel
from diffedit.server.errors import ApiError
from diffedit.server.fair_queue import FairQueue
from diffedit.server.forms import EditForm
from diffedit.server.settings import Settings

DEADLINE_MARGIN = 2.0
"""A job is refused for its time limit only if the prediction exceeds the limit by this factor,
because predictions are rough and an edit is stopped at its limit anyway."""
IMAGE_BYTES_PER_PIXEL = 28
"""Bytes of memory of a running edit per pixel of its image (decoded, resized, composited,
compared). Measured with noise of 4000 x 4000 pixels: 30 bytes per pixel with one result, 41 with
four."""
RESULT_BYTES_PER_PIXEL = 4
"""Bytes of an encoded result and its mask per pixel; a PNG of noise takes 3."""

MASK_BYTES_PER_PIXEL = 1
"""Bytes of the mask of one of several edits per pixel, until the result is encoded."""


def check_queue(
    queue: FairQueue, owner: str | None, backlog: float, settings: Settings, *, starts_now: bool
) -> None:
    """Raise ApiError (429) if the queue is full for an owner, by its length or its seconds.

    A job that can start now is always admitted, and so is a job of an owner with less than its
    share of a full queue.
    """
    owners = len(queue.owners | {owner})
    share = settings.max_waiting if owners == 1 else settings.max_waiting // owners
    if not starts_now and len(queue) >= settings.max_waiting and queue.of(owner) >= share:
        message = f"{len(queue)} edits are queued already; try again a little later."
        raise queue_full(message, retry_after=backlog / 2)
    if backlog > settings.max_queue_seconds:
        raise _backlog_too_long(backlog, retry_after=backlog - settings.max_queue_seconds)


def check_memory(form: EditForm, held: int, backlog: float, settings: Settings) -> int:
    """Return the predicted bytes of a job. Raises ApiError if they do not fit the limit.

    Args:
        form: what to do; the image's header has been read.
        held: predicted bytes of the other jobs.
        backlog: predicted seconds of the other jobs.
        settings: `max_job_bytes` is used.
    """
    needed, limit = predicted_bytes(form), settings.max_job_bytes
    if needed > limit:
        raise ApiError(
            413,
            "too_much_memory",
            f"This edit needs about {needed / 1e6:,.0f} MB, but the server allows "
            f"{limit / 1e6:,.0f} MB; send a smaller image or a smaller n.",
            "n" if form.n > 1 else form.image_field,
        )
    if held + needed > limit:
        message = f"The queue holds {held / 1e6:,.0f} MB of images; try again a little later."
        raise queue_full(message, retry_after=backlog / 2)
    return needed


def predicted_bytes(form: EditForm) -> int:
    """Bytes of a job in memory: its files, the decoded image, and its encoded results."""
    width, height = form.image_size or (0, 0)
    image = len(form.image) if isinstance(form.image, bytes) else form.image.nbytes
    files = image + len(form.mask or b"")
    masks = len(form.parameters.get("edits", ())) * MASK_BYTES_PER_PIXEL
    results = form.n * (RESULT_BYTES_PER_PIXEL + masks)
    return files + width * height * (IMAGE_BYTES_PER_PIXEL + results)


def check_time(
    cost_model: CostModel,
    request: EditRequest,
    count: int,
    image_size: tuple[int, int] | None,
    *,
    mask_only: bool,
    limit: float,
    backlog: Callable[[float], float],
    settings: Settings,
) -> float:
    """Return the predicted seconds of work of a job. Raises ApiError if they do not fit.

    Args:
        cost_model: predicts the seconds.
        request: the first of the job's edits.
        count: how many there are; they differ in their seeds.
        image_size: (width, height) of the image, or None.
        mask_only: find the mask and stop.
        limit: the time limit of the job in seconds.
        backlog: seconds of work -> predicted seconds until a job of that length begins.
        settings: `max_queue_seconds` is used.
    """
    request = resolve(request, cost_model.defaults)
    work = count * cost_model.work_seconds(request, image_size, mask_only=mask_only)
    latency = cost_model.latency_seconds(request, image_size, mask_only=mask_only)
    latency = max(latency, work)
    if latency > DEADLINE_MARGIN * limit:
        raise ApiError(
            400,
            "deadline_impossible",
            f"This edit takes about {latency:.1f} s even on an idle server, but its time limit "
            f"is {limit:g} s; use fewer steps or allow more time.",
            "X-Request-Timeout",
        )
    before = backlog(work)
    overdue = before + latency - DEADLINE_MARGIN * limit
    excess = max(before + work - settings.max_queue_seconds, overdue)
    if before > 0 and excess > 0:
        raise _backlog_too_long(before, retry_after=excess)
    return work


def queue_full(message: str, *, retry_after: float) -> ApiError:
    """The error for a job that may be sent again later."""
    return ApiError(429, "queue_full", message, retry_after=retry_after)


def _backlog_too_long(backlog: float, *, retry_after: float) -> ApiError:
    message = f"The queue holds {backlog:.0f} s of work; try again a little later."
    return queue_full(message, retry_after=retry_after)
