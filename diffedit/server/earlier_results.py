"""`mask_id` and `previous_edit_id`: earlier results of the same client instead of files.

An id is the id of a job, with "_" and a digest for a refined mask, "." and a number for one of
several results, and "~" and a number for the mask of one of several edits in one pass. It lives as
long as the job's results, and belongs to the same API key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from diffedit.server.errors import ApiError
from diffedit.server.forms import EditForm
from diffedit.server.image_codec import EncodedEdit, EncodedPart
from diffedit.server.job_store import JobStore
from diffedit.server.jobs import Job
from diffedit.server.refinement import RefinedMask

T = TypeVar("T")


def result_id(job: Job, edit: EncodedEdit) -> str:
    """The id of one result of a finished job."""
    if len(job.edits) == 1:
        return job.id
    return f"{job.id}.{next(k for k, other in enumerate(job.edits) if other is edit)}"


def with_earlier_results(form: EditForm, store: JobStore, owner: str | None) -> EditForm:
    """Return the form with the files of its ids.

    Raises ApiError: 404 for an id that is unknown, expired, of another owner or has no result, 409
    for one that has not finished, 400 for a mask of another image.
    """
    if form.previous_edit_id is not None:
        job, edit = _edit(store, form.previous_edit_id, owner, "previous_edit_id", "edit")
        if job.mask_only:
            message = "previous_edit_id is the id of a mask, which has no image; send the image."
            raise ApiError(400, "invalid_value", message, "previous_edit_id")
        source = edit.lossless or edit.image
        form = replace(form, image=source, image_size=job.image_size, root=job.form.root)
    if form.mask_id is not None:
        job, mask = find_mask(store, form.mask_id, owner)
        stored = mask.stored if isinstance(mask, RefinedMask) else mask.soft_map
        if job.form.root != form.root:
            message = (
                "The mask of mask_id belongs to another image; send the image that it was found "
                "on, an edit of it as previous_edit_id, or find the mask again."
            )
            raise ApiError(400, "mask_of_another_image", message, "mask_id")
        form = replace(form, mask=mask.mask, mask_format="white", soft_map=stored)
        if stored is not None:  # use the mask's own fade, unless the form has another one
            feather = {"mask_feather": stored.soft.feather}
            form = replace(form, parameters={**feather, **form.parameters})
    return form


def find_mask(
    store: JobStore, mask_id: str, owner: str | None
) -> tuple[Job, EncodedEdit | EncodedPart | RefinedMask]:
    """Return the job of a mask, and the mask. Raises ApiError."""
    job_id = mask_id.partition(".")[0].rpartition("_")[0]
    job = store.get(job_id) if job_id else None
    if job is not None and job.owner == owner and mask_id in job.refined:
        return job, job.refined[mask_id]
    edit_id, mark, number = mask_id.partition("~")
    job, edit = _edit(store, edit_id, owner, "mask_id", "mask")
    if not mark:
        return job, edit
    part = _item(edit.parts, number)
    if part is None:
        raise _not_found("mask_id", "mask")
    return job, part


def _edit(
    store: JobStore, text: str, owner: str | None, field: str, noun: str
) -> tuple[Job, EncodedEdit]:
    job_id, mark, number = text.partition(".")
    job = store.get(job_id)
    if job is not None and job.owner == owner and not job.finished:
        message = f"The {noun} of {field} has not finished; try again in a moment."
        raise ApiError(409, "not_finished", message, field, retry_after=1)
    edit = _item(job.edits, number if mark else "0") if job and job.owner == owner else None
    if job is None or edit is None:
        raise _not_found(field, noun)
    return job, edit


def _item(items: Sequence[T], number: str) -> T | None:
    """The item with a number as it is written in an id, or None."""
    known = {str(k): item for k, item in enumerate(items)}
    return known.get(number)


def _not_found(field: str, noun: str) -> ApiError:
    message = (
        f"There is no {noun} with the id of {field}, or it has expired; leave {field} out and "
        f"send the {'image' if noun == 'edit' else 'mask'} itself."
    )
    return ApiError(404, f"no_such_{noun}", message, field)
