"""Synchronous requests: wait for a job, send its results, and cancel it if its clients disconnect.

Several clients wait for one job if they sent the same Idempotency-Key. The job is cancelled when
the last of them disconnects.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from diffedit.server import responses
from diffedit.server.errors import to_api_error
from diffedit.server.jobs import Job
from diffedit.server.json_body import StreamedJson
from diffedit.server.scheduler import Scheduler
from diffedit.server.settings import Settings
from diffedit.server.threads import retrieve_exception

log = logging.getLogger(__name__)

PING_SECONDS = 15


class ClientJobs:
    """The responses of jobs that are cancelled when their clients disconnect."""

    def __init__(self, scheduler: Scheduler, settings: Settings) -> None:
        self._scheduler, self._settings = scheduler, settings

    async def response(
        self, request: Request, job: Job, body: Callable[[Job], dict[str, Any]]
    ) -> Response:
        """Wait for a job and return its response. Raises the job's error.

        Args:
            request: the client; its body has been read.
            job: the job.
            body: makes the JSON of the finished job.
        """
        with self._client_of(job):
            await _finish_or_disconnect(request, job)
        if job.error is not None:
            raise job.error
        return StreamedJson(
            body(job),
            {"Server-Timing": responses.server_timing(job)},
            send_seconds=self._settings.upload_seconds,
            while_sending=partial(self._scheduler.sending.results_of, job),
        )

    def stream(self, job: Job) -> Response:
        """Return a response with OpenAI's events of a job."""
        return _JobStream(_events(job), lambda: self._client_of(job))

    @contextmanager
    def _client_of(self, job: Job) -> Iterator[None]:
        """Count as a client of a job during the block. The job is cancelled after the last one."""
        job.clients += 1
        try:
            yield
        finally:
            job.clients -= 1
            if not job.clients:
                self._leave(job)

    def _leave(self, job: Job) -> None:
        if not job.finished:
            self._scheduler.count_event("left")
            self._scheduler.request_cancel(job)
        if job.state != "succeeded":  # a finished job stays available by its id
            self._scheduler.store.discard(job)


class _JobStream(EventSourceResponse):
    """An event stream that counts as a client of its job before the first event is sent."""

    def __init__(
        self,
        events: AsyncIterator[bytes | ServerSentEvent],
        client: Callable[[], AbstractContextManager[None]],
    ) -> None:
        super().__init__(events, ping=PING_SECONDS)
        self._client = client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until the job has finished or the client disconnects."""
        with self._client():
            await super().__call__(scope, receive, send)


async def _events(job: Job) -> AsyncIterator[bytes | ServerSentEvent]:
    """Yield OpenAI's events of a job. The last one is always `completed` or `error`."""
    try:
        async for _, name, payload in job.events():
            if name == "preview":
                yield responses.preview_event(payload, job)
        if job.error is not None:
            raise job.error
        for edit in job.edits:
            yield await asyncio.to_thread(responses.completed_event, edit, job)
    except Exception as error:
        if error is not job.error:
            log.error("request %s: its stream failed", job.request_id, exc_info=error)
        yield responses.error_event(to_api_error(error).body)


async def _finish_or_disconnect(request: Request, job: Job) -> None:
    """Wait until the job has finished. Raises ClientDisconnect if the client disconnects first."""
    finished = asyncio.create_task(job.wait())
    disconnected = asyncio.create_task(_wait_for_disconnect(request))
    try:
        await asyncio.wait([finished, disconnected], return_when=asyncio.FIRST_COMPLETED)
        if not job.finished:
            raise ClientDisconnect
    finally:
        for task in (finished, disconnected):
            task.cancel()
            retrieve_exception(task)


async def _wait_for_disconnect(request: Request) -> None:
    """Return when the client has disconnected. The body has been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
