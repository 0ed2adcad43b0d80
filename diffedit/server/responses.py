"""What the API says of jobs and edits, as dicts that become json."""

from __future__ import annotations

from typing import Any

from diffedit.server.image_codec import EncodedEdit, b64
from diffedit.server.jobs import Job
from diffedit.server.scheduler import Scheduler


def edit_data(answer: EncodedEdit, job: Job) -> dict[str, Any]:
    """One edited picture: OpenAI's `b64_json`, and what it does not tell."""
    return {
        "b64_json": b64(answer.image),
        "mask": b64(answer.mask),
        "seed": answer.seed,
        "mask_share": answer.mask_share,
        "mask_read_as": job.mask_read_as,
        "max_abs_diff_outside_mask": answer.max_abs_diff_outside_mask,
        "rows": answer.rows,
        "timings": timings(answer, job),
        "warnings": list(answer.warnings),
    }


def edit_answer(job: Job) -> dict[str, Any]:
    """The whole answer to an edit."""
    return {
        "created": int(job.created),
        "data": [edit_data(answer, job) for answer in job.answers],
        "output_format": job.order.output_format,
        "background": "opaque",
    }


def mask_answer(job: Job) -> dict[str, Any]:
    """The answer to a mask alone; the heatmap as a PNG of one level a latent cell."""
    (answer,) = job.answers
    return {
        "mask": b64(answer.mask),
        "heatmap": b64(answer.heatmap),
        "cells": list(answer.cells),
        "canvas": list(answer.canvas),
        "threshold": 0.5,
        "mask_share": answer.mask_share,
        "seed": answer.seed,
        "rows": answer.rows,
        "timings": timings(answer, job),
        "warnings": list(answer.warnings),
    }


def timings(answer: EncodedEdit, job: Job) -> dict[str, float]:
    """Seconds: the networks' stages, and the front's own under "open", "queue" and "write"."""
    front = {"open": "open", "queue": "queue", "encode": "write"}
    own = {front[k]: round(v, 4) for k, v in job.seconds.items() if k in front}
    return {**answer.timings, **own}


def server_timing(job: Job) -> str:
    """The `Server-Timing` header."""
    spans = {"open": "open", "queue": "queue", "encode": "write", "total": "total"}
    told = {spans[name]: seconds for name, seconds in job.seconds.items() if name in spans}
    for answer in job.answers[:1]:
        told |= {k: v for k, v in answer.timings.items() if k != "total"}
    return ", ".join(f"{name};dur={1000 * seconds:.1f}" for name, seconds in told.items())


def job_state(job: Job, scheduler: Scheduler) -> dict[str, Any]:
    """Where a job stands; with its edits' figures once it is done, without their pictures."""
    told: dict[str, Any] = {
        "id": job.id,
        "state": job.state,
        "stage": job.stage,
        "progress": round(job.progress, 4),
        "position": scheduler.position(job),
        "created": int(job.created),
    }
    if job.error is not None:
        told |= job.error.body
    if job.answers:
        hidden = ("b64_json", "mask")
        told["data"] = [
            {k: v for k, v in edit_data(answer, job).items() if k not in hidden}
            for answer in job.answers
        ]
    return told
