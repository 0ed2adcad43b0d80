"""Record traces of requests with OpenTelemetry, if its API is installed.

The standard environment variables configure the exporter. The spans of a job are recorded when it
has finished, with the times of its stages. A client's `traceparent` header makes them part of its
trace.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from diffedit.server.jobs import Job

log = logging.getLogger(__name__)

NETWORK_STAGES = ("mask", "encode", "decode")
"""Stages of the networks, in their order."""
NANOSECONDS = 1_000_000_000


class Tracer:
    """Records the spans of finished jobs. Does nothing without `opentelemetry-api`."""

    def __init__(self) -> None:
        try:
            from opentelemetry import propagate, trace
        except ImportError:
            self._trace = self._propagate = None
            return
        self._trace, self._propagate = trace, propagate

    def context(self, headers: Mapping[str, str]) -> Any:
        """The trace that a request belongs to, or None."""
        return None if self._propagate is None else self._propagate.extract(headers)

    def record(self, job: Job) -> None:
        """Record the spans of a finished job: the request, and in it each stage."""
        if self._trace is None:
            return
        tracer = self._trace.get_tracer("diffedit")
        began = int(job.created * NANOSECONDS)
        name = "find mask" if job.mask_only else "edit"
        span = tracer.start_span(name, job.trace_context, start_time=began, attributes=facts(job))
        if job.state != "succeeded" and job.error is not None:
            status = self._trace.Status(self._trace.StatusCode.ERROR, job.error.code)
            span.set_status(status)
        inside = self._trace.set_span_in_context(span, job.trace_context)
        for stage, start, seconds in stages(job):
            begin = began + int(start * NANOSECONDS)
            child = tracer.start_span(stage, inside, start_time=begin)
            child.end(begin + int(seconds * NANOSECONDS))
        span.end(began + int(job.timings.get("total", 0.0) * NANOSECONDS))


def facts(job: Job) -> dict[str, str | int]:
    """The attributes of a job's span, without prompts and pictures."""
    found: dict[str, str | int] = {
        "diffedit.request_id": job.request_id,
        "diffedit.job_id": job.id,
        "diffedit.state": job.state,
        "diffedit.n": job.form.n,
    }
    for edit in job.edits[:1]:
        found |= {f"diffedit.rows.{name}": count for name, count in edit.rows.items()}
    if job.image_size is not None:
        found |= {"diffedit.width": job.image_size[0], "diffedit.height": job.image_size[1]}
    return found


def stages(job: Job) -> Iterator[tuple[str, float, float]]:
    """The stages of a job as (name, start, seconds), the start counted from the job's own.

    The networks' stages are those of the first of n edits, one after the other.
    """
    start = 0.0
    for name, stage in (("queue", "queue"), ("prepare", "open")):
        if stage in job.timings:
            yield name, start, job.timings[stage]
            start += job.timings[stage]
    for edit in job.edits[:1]:
        for stage in NETWORK_STAGES:
            if stage in edit.timings:
                yield stage, start, edit.timings[stage]
                start += edit.timings[stage]
    if "encode" in job.timings:  # the composite, and the files
        seconds = job.timings["encode"]
        yield "compose", max(start, job.timings["total"] - seconds), seconds
