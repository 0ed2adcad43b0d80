"""JSON responses and server-sent events of jobs and edits."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import Any

from sse_starlette import ServerSentEvent

from diffedit.notices import warning_facts
from diffedit.server.earlier_results import result_id
from diffedit.server.image_codec import EncodedEdit
from diffedit.server.jobs import Job
from diffedit.server.json_body import Base64, encode
from diffedit.server.refinement import RefinedMask

SERVER_STAGES = {"open": "open", "queue": "queue", "encode": "write"}
"""Key of `Job.timings` -> name in responses, where "encode" is a stage of the networks."""


def edit_data(edit: EncodedEdit, job: Job) -> dict[str, Any]:
    """One edited image: OpenAI's `b64_json` and additional fields."""
    return {
        "b64_json": Base64(edit.image),
        "mask": Base64(edit.mask),
        "blend_mask": Base64(edit.blend_mask),
        **edit_facts(edit, job),
        **_parts(edit, job),
    }


def _parts(edit: EncodedEdit, job: Job) -> dict[str, Any]:
    """Each of several edits in one pass: its texts and its mask."""
    parts = [
        {
            "prompt": part.prompt,
            "source_prompt": part.source_prompt,
            "mask_id": f"{result_id(job, edit)}~{number}",
            "mask": Base64(part.mask),
            "mask_share": part.mask_share,
        }
        for number, part in enumerate(edit.parts)
    ]
    return {"edits": parts} if parts else {}


def edit_facts(edit: EncodedEdit, job: Job) -> dict[str, Any]:
    """One edited image, without its images."""
    return {
        "edit_id": result_id(job, edit),
        "previous_edit_id": job.form.previous_edit_id,
        "mask_id": job.form.mask_id or result_id(job, edit),
        "seed": edit.seed,
        "mask_share": edit.mask_share,
        "mask_read_as": job.mask_read_as,
        "provenance": asdict(edit.provenance),
        "max_abs_diff_outside_mask": edit.max_abs_diff_outside_mask,
        "parameters": dict(edit.parameters),
        "window": edit.window,
        "rows": edit.rows,
        "denoiser": edit.denoiser,
        "timings": timings(edit, job),
        **warning_facts((*edit.warnings, *job.warnings)),
    }


def edit_body(job: Job) -> dict[str, Any]:
    """The response of an edit."""
    return {
        "created": int(job.created),
        "data": [edit_data(edit, job) for edit in job.edits],
        **output_facts(job),
    }


def output_facts(job: Job) -> dict[str, str]:
    """OpenAI's fields about the images of a response, with the actual values."""
    size = "x".join(map(str, job.image_size)) if job.image_size else "auto"
    return {
        "output_format": job.form.output_format,
        "background": "transparent" if any(edit.has_alpha for edit in job.edits) else "opaque",
        "quality": "auto",
        "size": size,
    }


def mask_body(job: Job) -> dict[str, Any]:
    """The response of a mask request. The heatmap is a PNG with one grey level per latent cell."""
    (edit,) = job.edits
    shown = edit.shown or edit
    return {
        "mask_id": result_id(job, edit),
        "previous_edit_id": job.form.previous_edit_id,
        "mask": Base64(shown.mask),
        "blend_mask": Base64(shown.blend_mask),
        "heatmap": Base64(edit.heatmap),
        "cells": list(edit.cells),
        "canvas": list(edit.canvas),
        **edit.shape,
        **_parts(edit, job),
        "mask_share": edit.mask_share,
        "parameters": dict(edit.parameters),
        "seed": edit.seed,
        "provenance": asdict(edit.provenance),
        "rows": edit.rows,
        "denoiser": edit.denoiser,
        "timings": timings(edit, job),
        **warning_facts((*edit.warnings, *job.warnings)),
    }


def refined_body(job: Job, refined_id: str, refined: RefinedMask) -> dict[str, Any]:
    """The response of a refined mask."""
    return {
        "mask_id": refined_id,
        "refined_from": f"{job.id}{job.suffix(refined.first)}",
        "mask": Base64(refined.shown.mask),
        "blend_mask": Base64(refined.shown.blend_mask),
        "mask_share": refined.mask_share,
        **refined.stored.facts,
    }


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
        status["data"] = [edit_facts(edit, job) for edit in job.edits]
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


def preview_event(payload: dict[str, Any], job: Job) -> bytes:
    """OpenAI's event for a preview."""
    data = {"b64_json": payload["image"], "partial_image_index": payload["index"]}
    return _openai_event("image_edit.partial_image", job, data)


def completed_event(edit: EncodedEdit, job: Job) -> bytes:
    """OpenAI's event for a finished edit. May take long; run it in a thread."""
    return _openai_event("image_edit.completed", job, edit_data(edit, job))


def error_event(body: dict[str, Any]) -> ServerSentEvent:
    """The last event of a stream that failed."""
    return ServerSentEvent(json.dumps(body), event="error")


def _openai_event(name: str, job: Job, data: dict[str, Any]) -> bytes:
    """An event on one line, as bytes, since `ServerSentEvent` would search it for line ends."""
    common = {"type": name, "created_at": int(time.time()), **output_facts(job)}
    return b"".join([f"event: {name}\r\ndata: ".encode(), *encode(common | data), b"\r\n\r\n"])
