"""The endpoints: a form in, a job at the scheduler, its answer out. They decide nothing else."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from importlib import resources
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from sse_starlette import EventSourceResponse, ServerSentEvent

from diffedit.server import forms, responses, schema
from diffedit.server.auth import PAGE_PATHS
from diffedit.server.engine_host import EngineHost
from diffedit.server.errors import ApiError
from diffedit.server.image_codec import EncodedEdit
from diffedit.server.jobs import Job
from diffedit.server.metrics import Metrics
from diffedit.server.scheduler import Scheduler
from diffedit.server.settings import Settings

KINDS = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
TOLD_LIMITS = ("max_body_bytes", "max_pixels", "max_side", "max_prompt_bytes")
PING_SECONDS = 15
MAX_KEYS = 10_000
MAX_WORD = 256


class Routes:
    """The endpoints of one server."""

    def __init__(
        self, engine_host: EngineHost, scheduler: Scheduler, metrics: Metrics, settings: Settings
    ) -> None:
        self.engine_host, self.scheduler, self.metrics, self.settings = (
            engine_host,
            scheduler,
            metrics,
            settings,
        )
        self._dropping: set[asyncio.Task[None]] = set()
        self._uploads = asyncio.Semaphore(settings.max_uploads)
        self._repeats: OrderedDict[tuple[str | None, str], tuple[str, str]] = OrderedDict()

    def router(self) -> APIRouter:
        """Everything, under its paths."""
        router = APIRouter()

        def add(
            method: str, path: str, endpoint: Callable[..., Any], summary: str, **more: Any
        ) -> None:
            router.add_api_route(path, endpoint, methods=[method], summary=summary, **more)

        refused = schema.EDIT_ERRORS
        edited = schema.of_shape(schema.EDIT, "text/event-stream") | refused
        edit = {"openapi_extra": schema.EDIT_FORM, "responses": edited}
        masked = schema.of_shape(schema.MASK) | refused
        mask = {"openapi_extra": schema.MASK_FORM, "responses": masked}
        submit = {"openapi_extra": schema.JOB_FORM, "responses": schema.ACCEPTED | refused}
        job = {"responses": schema.of_shape(schema.JOB) | schema.errors(404)}
        events = schema.of_type("text/event-stream") | schema.errors(404)
        of_job = schema.errors(400, 404, 409, 410, 413, 415, 422, 503)
        image = schema.of_type(*(f"image/{name}" for name in forms.FORMATS)) | of_job
        plain: dict[str, Any] = {"response_class": Response}

        add("POST", "/v1/images/edits", self.edit, "Edit a picture", **edit)
        add("POST", "/v1/masks", self.mask, "Find the mask alone", **mask)
        add("POST", "/v1/jobs", self.submit, "Edit in the background", status_code=202, **submit)
        add("GET", "/v1/jobs/{job_id}", self.state, "Where a job stands", **job)
        add("DELETE", "/v1/jobs/{job_id}", self.cancel, "Cancel a job", **job)
        add(
            "GET", "/v1/jobs/{job_id}/events", self.events, "Follow a job",
            response_class=EventSourceResponse, responses=events, openapi_extra=schema.RESUME,
        )  # fmt: skip
        add("GET", "/v1/jobs/{job_id}/image", self.image, "Its picture", **plain, responses=image)
        mask_image = schema.of_type("image/png") | of_job
        add(
            "GET", "/v1/jobs/{job_id}/mask", self.mask_of, "Its mask", **plain, responses=mask_image
        )
        add("GET", "/v1/models", self.models, "What is served", responses=schema.errors())
        text = schema.of_type("text/plain") | schema.errors()
        add("GET", "/metrics", self.figures, "Figures for Prometheus", **plain, responses=text)
        add("GET", "/livez", self.live, "The process runs", responses=schema.errors())
        add("GET", "/readyz", self.ready, "Requests are taken", responses=schema.errors(503))
        for path in PAGE_PATHS:
            add("GET", path, self.page, "The page", include_in_schema=False)
        return router

    # -- edits ----------------------------------------------------------------------------------

    async def edit(self, request: Request) -> Response:
        """Find the mask (or take yours), repaint it, give the picture back."""
        order = await self._order(request)
        job = self._admit(request, order)
        if order.stream:
            return EventSourceResponse(self._stream(job), ping=PING_SECONDS)
        await self._attend(request, job)
        return _json(responses.edit_answer(job), job)

    async def mask(self, request: Request) -> Response:
        """The mask and the heatmap that it is cut from."""
        order = await self._order(request, mask_only=True)
        job = self._admit(request, order, mask_only=True)
        await self._attend(request, job)
        return _json(responses.mask_answer(job), job)

    async def submit(self, request: Request) -> Response:
        """EncodedEdit at once with an id; `Idempotency-Key` makes repeating it safe."""
        word = request.headers.get("idempotency-key", "")
        if len(word) > MAX_WORD:
            raise ApiError(
                400, "invalid_value", f"Idempotency-Key has over {MAX_WORD} letters; shorten it."
            )
        key = request.state.owner, word
        known = self._repeats.get(key) if word else None
        order = await self._order(request, known=known is not None)
        body = _digest(order)
        if known:
            if known[1] != body:
                raise ApiError(
                    422,
                    "idempotency_key_reused",
                    "This Idempotency-Key came with another body before; take a new one.",
                )
            if job := self.scheduler.jobs.get(known[0]):
                return self._accepted(job)
        job = self._admit(request, order)
        if word:
            self._repeats[key] = job.id, body
            while len(self._repeats) > MAX_KEYS:
                self._repeats.popitem(last=False)
        return self._accepted(job)

    # -- jobs -----------------------------------------------------------------------------------

    async def state(self, request: Request, job_id: str) -> dict[str, Any]:
        """State, place in the queue, stage and progress."""
        return responses.job_state(self._job(request, job_id), self.scheduler)

    async def cancel(self, request: Request, job_id: str) -> dict[str, Any]:
        """Stops it within one network call; a finished job stays as it is."""
        job = self._job(request, job_id)
        await self.scheduler.cancel(job)
        return responses.job_state(job, self.scheduler)

    async def events(self, request: Request, job_id: str) -> Response:
        """Server-sent events state, progress, preview and done; resumes after `Last-Event-ID`."""
        job = self._job(request, job_id)
        last = request.headers.get("last-event-id", "")
        after = int(last) if last.isascii() and last.isdigit() and len(last) < 10 else 0

        async def told() -> AsyncIterator[ServerSentEvent]:
            async for number, event, data in job.events(after):
                yield ServerSentEvent(json.dumps(data), event=event, id=str(number))

        return EventSourceResponse(told(), ping=PING_SECONDS)

    async def image(self, request: Request, job_id: str, index: int = 0) -> Response:
        """The edited picture; `index` chooses among n."""
        answer, job = self._answer(request, job_id, index)
        return Response(answer.image, media_type=f"image/{job.order.output_format}")

    async def mask_of(self, request: Request, job_id: str, index: int = 0) -> Response:
        """The mask that was edited under, 255 = edited."""
        answer, _ = self._answer(request, job_id, index)
        return Response(answer.mask, media_type="image/png")

    # -- the server itself ----------------------------------------------------------------------

    async def models(self) -> dict[str, Any]:
        """The one model that is served, with the sizes it sees."""
        pipe = self.engine_host.pipe
        model = {"id": self.engine_host.model, "object": "model", "owned_by": "local", "created": 0}
        if pipe is not None:
            model |= {"backend": pipe.describe(), "native_size": pipe.checkpoint.family.native_size}
        limits = {name: getattr(self.settings, name) for name in TOLD_LIMITS}
        return {"object": "list", "data": [model], "limits": limits}

    async def figures(self) -> Response:
        """Figures for Prometheus."""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def live(self) -> dict[str, str]:
        """The process runs and its loop turns."""
        return {"status": "live"}

    async def ready(self) -> dict[str, Any]:
        """Every profile was warmed up, the engine's thread answers, and nobody asked to stop."""
        if self.engine_host.broken:
            raise ApiError(503, "engine_lost", self.engine_host.broken, retry_after=10)
        if self.scheduler.draining:
            raise ApiError(503, "draining", "The server is shutting down.", retry_after=5)
        if not self.engine_host.warm:
            raise ApiError(503, "not_ready", "The model is still being loaded.", retry_after=2)
        return {"status": "ready", "loaded": self.engine_host.pipe is not None}

    async def page(self, request: Request) -> Response:
        """The page and its parts."""
        name = request.url.path.lstrip("/") or "index.html"
        data = resources.files("diffedit.server").joinpath("page", name).read_bytes()
        return Response(data, media_type=f"{KINDS[name.split('.')[-1]]}; charset=utf-8")

    # -- parts ----------------------------------------------------------------------------------

    async def _order(
        self, request: Request, *, mask_only: bool = False, known: bool = False
    ) -> forms.EditForm:
        """What is asked for; a crowded server refuses before it reads, unless it is `known`."""
        try:
            if not known:
                self.scheduler.check_open()
        except ApiError:
            await forms.skip(request, self.settings)  # or the client would not hear the answer
            raise
        order = await forms.read(request, self.settings, self._uploads, mask_only=mask_only)
        if order.model not in (None, self.engine_host.model):
            raise ApiError(
                404,
                "model_not_found",
                f"There is no model {order.model[:60]!r} here, only {self.engine_host.model!r}; "
                "leave it out.",
                "model",
            )
        await self.scheduler.check(order)
        return order

    def _admit(self, request: Request, order: forms.EditForm, *, mask_only: bool = False) -> Job:
        text = request.headers.get("x-request-timeout")
        timeout = None
        if text is not None:
            try:  # as a form's numbers: whole, and without Python's underscores
                timeout = float(text) if re.fullmatch(forms.NUMBER, text) else -1.0
            except ValueError:
                timeout = -1.0
            if not 0 < timeout < 1e6:
                raise ApiError(
                    400, "invalid_value", "X-Request-Timeout must be a number of seconds."
                )
        return self.scheduler.admit(
            order,
            mask_only=mask_only,
            timeout=timeout,
            request_id=request.state.request_id,
            owner=request.state.owner,
        )

    async def _attend(self, request: Request, job: Job) -> None:
        """Wait for a job together with its client; if the client leaves, the job ends."""
        done = asyncio.create_task(job.wait())
        gone = asyncio.create_task(_disconnect(request))
        try:
            await asyncio.wait([done, gone], return_when=asyncio.FIRST_COMPLETED)
            if not job.over:
                self.scheduler.count("left")
        finally:
            gone.cancel()
            done.cancel()
            await self.scheduler.cancel(job)
            self.scheduler.forget(job)
        if job.error is not None:
            raise job.error

    async def _stream(self, job: Job) -> AsyncIterator[ServerSentEvent]:
        """OpenAI's events of an edit; who stops listening stops the edit."""
        try:
            async for _, event, data in job.events():
                if event == "preview":
                    partial = {"b64_json": data["image"], "partial_image_index": data["index"]}
                    yield _openai_event("image_edit.partial_image", job, partial)
            if job.error is not None:
                yield ServerSentEvent(json.dumps(job.error.body), event="error")
            for answer in job.answers:
                yield _openai_event("image_edit.completed", job, responses.edit_data(answer, job))
        finally:
            if not job.over:
                self.scheduler.count("left")
            # In a task of its own: who was cut off may not wait for anything any more.
            dropping = asyncio.create_task(self.scheduler.cancel(job))
            self._dropping.add(dropping)
            dropping.add_done_callback(self._dropping.discard)
            self.scheduler.forget(job)

    def _job(self, request: Request, job_id: str) -> Job:
        """A job of the key that asks for it; others' are not there."""
        return self.scheduler.find(job_id, request.state.owner)

    def _answer(self, request: Request, job_id: str, index: int) -> tuple[EncodedEdit, Job]:
        job = self._job(request, job_id)
        if not job.over:
            raise ApiError(
                409, "not_finished", "The job is not finished; ask again.", "job_id", retry_after=1
            )
        if job.error is not None:
            raise job.error
        if not 0 <= index < len(job.answers):
            raise ApiError(404, "no_such_image", f"The job has {len(job.answers)}.", "index")
        return job.answers[index], job

    def _accepted(self, job: Job) -> JSONResponse:
        headers = {"Location": f"/v1/jobs/{job.id}"}
        return JSONResponse(responses.job_state(job, self.scheduler), 202, headers)


def _json(told: dict[str, Any], job: Job) -> JSONResponse:
    return JSONResponse(told, headers={"Server-Timing": responses.server_timing(job)})


def _openai_event(kind: str, job: Job, data: dict[str, Any]) -> ServerSentEvent:
    common = {
        "type": kind,
        "created_at": int(time.time()),
        "output_format": job.order.output_format,
        "background": "opaque",
        "quality": "auto",
        "size": "auto",
    }
    return ServerSentEvent(json.dumps(common | data), event=kind)


async def _disconnect(request: Request) -> None:
    """Returns when the client has gone; the body was read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _digest(order: forms.EditForm) -> str:
    """Everything an order says, as one word."""
    parts = {k: v for k, v in vars(order).items() if k not in ("image", "mask", "parameters")}
    told = json.dumps([parts, dict(order.parameters)], sort_keys=True, default=str).encode()
    whole = hashlib.sha256(told)
    for data in (order.image, order.mask or b""):
        whole.update(hashlib.sha256(data).digest())
    return whole.hexdigest()
