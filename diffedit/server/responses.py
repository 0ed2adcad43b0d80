"""JSON responses and server-sent events of jobs and edits."""

from __future__ import annotations

import json
import time
from typing import Any

from fastapi.responses import JSONResponse
from sse_starlette import ServerSentEvent

from diffedit.server.image_codec import EncodedEdit, to_base64
from diffedit.server.jobs import Job

SERVER_STAGES = {"open": "open", "queue": "queue", "encode": "write"}
"""Key of `Job.timings` -> name in responses, where "encode" is a stage of the networks."""


def edit_data(edit: EncodedEdit, job: Job) -> dict[str, Any]:
    """One edited image: OpenAI's `b64_json` and additional fields."""
    return {
        "b64_json": to_base64(edit.image),
        "mask": to_base64(edit.mask),
        "seed": edit.seed,
        "mask_share": edit.mask_share,
        "mask_read_as": job.mask_read_as,
        "max_abs_diff_outside_mask": edit.max_abs_diff_outside_mask,
        "rows": edit.rows,
        "timings": timings(edit, job),
        "warnings": list(edit.warnings),
    }


def edit_response(job: Job) -> JSONResponse:
    """The response of an edit."""
    body = {
        "created": int(job.created),
        "data": [edit_data(edit, job) for edit in job.edits],
        "output_format": job.form.output_format,
        "background": "opaque",
    }
    return JSONResponse(body, headers={"Server-Timing": server_timing(job)})


def mask_response(job: Job) -> JSONResponse:
    """The response of a mask request. The heatmap is a PNG with one grey level per latent cell."""
    (edit,) = job.edits
    body = {
        "mask": to_base64(edit.mask),
        "heatmap": to_base64(edit.heatmap),
        "cells": list(edit.cells),
        "canvas": list(edit.canvas),
        "threshold": 0.5,
        "mask_share": edit.mask_share,
        "seed": edit.seed,
        "rows": edit.rows,
        "timings": timings(edit, job),
        "warnings": list(edit.warnings),
    }
    return JSONResponse(body, headers={"Server-Timing": server_timing(job)})


def job_status(job: Job, queue_position: int) -> dict[str, Any]:
    """The state of a job; when it is finished also its edits, without their images."""
    status: dict[str, Any] = {
        "id": job.id,
        "state": job.state,
        "stage": job.stage,
        "progress": round(job.progress, 4),
        "position": queue_position,
        "created": int(job.created),
    }
    if job.error is not None:
        status |= job.error.body
    if job.edits:
        images = ("b64_json", "mask")
        status["data"] = [
            {k: v for k, v in edit_data(edit, job).items() if k not in images} for edit in job.edits
        ]
    return status


def timings(edit: EncodedEdit, job: Job) -> dict[str, float]:
    """Seconds per stage: the networks' stages, and the server's own."""
    server = {SERVER_STAGES[k]: round(v, 4) for k, v in job.timings.items() if k in SERVER_STAGES}
    return {**edit.timings, **server}


def server_timing(job: Job) -> str:
    """The value of the `Server-Timing` header, in milliseconds."""
    names = {**SERVER_STAGES, "total": "total"}
    spans = {names[stage]: seconds for stage, seconds in job.timings.items() if stage in names}
    for edit in job.edits[:1]:
        spans |= {k: v for k, v in edit.timings.items() if k != "total"}
    return ", ".join(f"{name};dur={1000 * seconds:.1f}" for name, seconds in spans.items())


# -- server-sent events ----------------------------------------------------------------------------


def job_event(event_id: int, name: str, payload: dict[str, Any]) -> ServerSentEvent:
    """An event of a job's event stream."""
    return ServerSentEvent(json.dumps(payload), event=name, id=str(event_id))


def preview_event(payload: dict[str, Any], job: Job) -> ServerSentEvent:
    """OpenAI's event for a preview."""
    data = {"b64_json": payload["image"], "partial_image_index": payload["index"]}
    return _openai_event("image_edit.partial_image", job, data)


def completed_event(edit: EncodedEdit, job: Job) -> ServerSentEvent:
    """OpenAI's event for a finished edit."""
    return _openai_event("image_edit.completed", job, edit_data(edit, job))


def error_event(body: dict[str, Any]) -> ServerSentEvent:
    """The last event of a stream that failed."""
    return ServerSentEvent(json.dumps(body), event="error")


def _openai_event(name: str, job: Job, data: dict[str, Any]) -> ServerSentEvent:
    common = {
        "type": name,
        "created_at": int(time.time()),
        "output_format": job.form.output_format,
        "background": "opaque",
        "quality": "auto",
        "size": "auto",
    }
    return ServerSentEvent(json.dumps(common | data), event=name)
