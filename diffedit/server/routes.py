"""The endpoints: parse a form, admit a job, send its result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from sse_starlette import EventSourceResponse

from diffedit.server import form_body, forms, idempotency, mask_schemas, pages, responses, schema
from diffedit.server.client_jobs import PING_SECONDS, ClientJobs
from diffedit.server.earlier_results import find_mask
from diffedit.server.engine_host import EngineHost
from diffedit.server.errors import ApiError, draining, engine_lost, not_ready
from diffedit.server.forms import EditForm
from diffedit.server.idempotency import IdempotencyKeys
from diffedit.server.image_codec import EncodedEdit
from diffedit.server.jobs import Job
from diffedit.server.json_body import StreamedJson
from diffedit.server.mask_files import read_mask_file, receive_mask_file
from diffedit.server.metrics import Metrics
from diffedit.server.refinement import GuideCache, RefinedMask, refine
from diffedit.server.route_parameters import EditIndex, JobId, MaskId, ModelId
from diffedit.server.scheduler import Scheduler
from diffedit.server.settings import Settings
from diffedit.server.uploads import Uploads

PUBLIC_LIMITS = ("max_body_bytes", "max_pixels", "max_side", "max_prompt_bytes")
"""Settings that GET /v1/models returns."""


class Routes:
    """The endpoints of one server."""

    def __init__(
        self,
        engine_host: EngineHost,
        scheduler: Scheduler,
        metrics: Metrics,
        uploads: Uploads,
        settings: Settings,
    ) -> None:
        self._engine_host, self._scheduler = engine_host, scheduler
        self._metrics, self._uploads, self._settings = metrics, uploads, settings
        self._idempotency_keys = IdempotencyKeys(scheduler.store)
        self._client_jobs = ClientJobs(scheduler, settings)
        self._guides = GuideCache()

    def router(self) -> APIRouter:
        """Return a router with every endpoint."""
        router = APIRouter()

        def add(
            method: str, path: str, endpoint: Callable[..., Any], summary: str, **more: Any
        ) -> None:
            router.add_api_route(path, endpoint, methods=[method], summary=summary, **more)

        raw: dict[str, Any] = {"response_class": Response}
        add("POST", "/v1/images/edits", self.edit, "Edit an image", **schema.EDIT_ROUTE)
        add("POST", "/v1/masks", self.mask, "Find a mask", **schema.MASK_ROUTE)
        add("POST", "/v1/masks/read", self.read_mask, "Read a mask file", **mask_schemas.READ_ROUTE)
        mask_path = "/v1/masks/{mask_id}"
        add("POST", mask_path, self.refine, "Refine a mask", **mask_schemas.REFINE_ROUTE)
        add("POST", "/v1/jobs", self.submit, "Create a job", status_code=202, **schema.SUBMIT_ROUTE)
        job_path = "/v1/jobs/{job_id}"
        add("GET", job_path, self.job, "Get a job", **schema.JOB_ROUTE)
        add("DELETE", job_path, self.cancel, "Cancel a job", **schema.JOB_ROUTE)
        add(
            "GET", f"{job_path}/events", self.events, "Stream the events of a job",
            response_class=EventSourceResponse, **schema.EVENTS_ROUTE,
        )  # fmt: skip
        image, mask = schema.IMAGE_ROUTE, schema.MASK_IMAGE_ROUTE
        add("GET", f"{job_path}/image", self.image, "Get an edited image", **raw, **image)
        add("GET", f"{job_path}/mask", self.job_mask, "Get a mask", **raw, **mask)
        blend_path = f"{job_path}/blend_mask"
        add("GET", blend_path, self.job_blend_mask, "Get a blend mask", **raw, **mask)
        add("GET", "/v1/models", self.models, "List models", **schema.MODELS_ROUTE)
        model_path = "/v1/models/{model_id}"
        add("GET", model_path, self.model, "Get a model", **schema.MODEL_ROUTE)
        add("GET", "/v1/models/{model_id:path}", self.model, "", include_in_schema=False)
        add("GET", "/metrics", self.metrics, "Prometheus metrics", **raw, **schema.METRICS_ROUTE)
        add("GET", "/livez", self.live, "Liveness probe", **schema.PLAIN_ROUTE)
        add("GET", "/readyz", self.ready, "Readiness probe", **schema.READY_ROUTE)
        pages.add_routes(router)
        return router

    # -- edits -------------------------------------------------------------------------------------

    async def edit(self, request: Request) -> Response:
        """Edit an image inside a mask, which is either uploaded or found from the prompts.

        The edit stops if the client disconnects. Repeating a request with the same
        `Idempotency-Key` returns the same edit.
        """
        job = await self._job_of(request)
        if job.form.stream:
            return self._client_jobs.stream(job)
        return await self._client_jobs.response(request, job, responses.edit_body)

    async def mask(self, request: Request) -> Response:
        """Find the mask for an edit, and return it with its heatmap."""
        job = await self._job_of(request, mask_only=True)
        return await self._client_jobs.response(request, job, responses.mask_body)

    async def read_mask(self, request: Request) -> Response:
        """Read a mask file as an edit would read it: grey PNG, 255 = edited. No network runs."""
        form = await receive_mask_file(request, self._settings, self._uploads)
        body = await self._scheduler.runner.images.run(
            request.state.owner, read_mask_file, form, self._settings
        )
        return StreamedJson(body, {}, send_seconds=self._settings.upload_seconds)

    async def refine(self, request: Request, mask_id: MaskId) -> Response:
        """Make another mask from the heatmap of an earlier one. No network runs."""
        fields = await forms.read_texts(request, self._settings, self._uploads)
        job, mask = find_mask(self._scheduler.store, mask_id, request.state.owner)
        first = mask.first if isinstance(mask, RefinedMask) else mask.soft_map
        if first is None:
            message = "mask_id is a mask without a heatmap to refine, because it was uploaded or "
            message += "several edits share it; use the mask_id of one of its edits, or find a "
            message += "mask with POST /v1/masks."
            raise ApiError(400, "invalid_value", message, "mask_id")
        refined = await self._scheduler.runner.images.run(
            job.owner, refine, first, fields, self._guides
        )
        refined_id = job.keep_refined(refined)
        self._scheduler.store.measure(job)
        body = responses.refined_body(job, refined_id, refined)
        return StreamedJson(body, {}, send_seconds=self._settings.upload_seconds)

    async def submit(self, request: Request) -> Response:
        """Start an edit in the background and return its job.

        Repeating a request with the same `Idempotency-Key` returns the same job.
        """
        job = await self._job_of(request)
        return JSONResponse(self._status(job), 202, {"Location": f"/v1/jobs/{job.id}"})

    # -- jobs --------------------------------------------------------------------------------------

    async def job(self, request: Request, job_id: JobId) -> dict[str, Any]:
        """Return state, queue position, stage and progress of a job."""
        return self._status(self._find_job(request, job_id))

    async def cancel(self, request: Request, job_id: JobId) -> dict[str, Any]:
        """Cancel a job within one network call. A finished job is left unchanged."""
        job = self._find_job(request, job_id)
        await self._scheduler.cancel(job)
        return self._status(job)

    async def events(self, request: Request, job_id: JobId) -> Response:
        """Stream the events state, progress, preview and done. Resumes after `Last-Event-ID`."""
        job = self._find_job(request, job_id)
        last_id = request.headers.get("last-event-id", "")
        valid = last_id.isascii() and last_id.isdigit() and len(last_id) < 10
        after = int(last_id) if valid else 0
        events = (responses.job_event(*event) async for event in job.events(after))
        return EventSourceResponse(events, ping=PING_SECONDS)

    async def image(self, request: Request, job_id: JobId, index: EditIndex = 0) -> Response:
        """Return the edited image; `index` selects one of the n edits."""
        edit, job = self._find_edit(request, job_id, index)
        if job.mask_only:
            message = "This job has found a mask and made no image; request its mask instead."
            raise ApiError(404, "no_such_image", message, "job_id")
        return Response(edit.image, media_type=f"image/{job.form.output_format}")

    async def job_mask(self, request: Request, job_id: JobId, index: EditIndex = 0) -> Response:
        """Return the mask of an edit, 255 = edited."""
        edit, _ = self._find_edit(request, job_id, index)
        return Response(edit.mask, media_type="image/png")

    async def job_blend_mask(
        self, request: Request, job_id: JobId, index: EditIndex = 0
    ) -> Response:
        """Return the blend mask: the opacity of an edit at each pixel, 0 to 255."""
        edit, _ = self._find_edit(request, job_id, index)
        return Response(edit.blend_mask, media_type="image/png")

    # -- the server itself -------------------------------------------------------------------------

    async def models(self) -> dict[str, Any]:
        """Return the served model under each of its names, and the limits of uploads."""
        limits = {name: getattr(self._settings, name) for name in PUBLIC_LIMITS}
        models = [self._model(name) for name in self._model_names]
        return {"object": "list", "data": models, "limits": limits}

    async def model(self, model_id: ModelId) -> dict[str, Any]:
        """Return the served model."""
        if model_id not in self._model_names:
            raise self._no_model(model_id)
        return self._model(model_id)

    async def metrics(self) -> Response:
        """Return the metrics in Prometheus' text format."""
        return Response(self._metrics.render(), media_type=Metrics.content_type)

    async def live(self) -> dict[str, str]:
        """Succeeds while the event loop runs."""
        return {"status": "live"}

    async def ready(self) -> dict[str, Any]:
        """Succeeds if the model was loaded, the engine works and no shutdown has begun."""
        if self._engine_host.failure_reason:
            raise engine_lost(self._engine_host.failure_reason)
        if self._scheduler.leaving:
            raise draining()
        if not self._engine_host.warm:
            raise not_ready(retry_after=2)
        return {"status": "ready", "loaded": self._engine_host.pipeline is not None}

    # -- helpers -----------------------------------------------------------------------------------

    async def _job_of(self, request: Request, *, mask_only: bool = False) -> Job:
        """Read a form and admit its job, or find the earlier job of its Idempotency-Key."""
        key = idempotency.read_key(request.headers.get("idempotency-key"))

        def admit(form: EditForm) -> Job:
            return self._scheduler.admit(
                form,
                mask_only=mask_only,
                timeout=forms.requested_timeout(request),
                request_id=request.state.request_id,
                owner=request.state.owner,
                trace_context=self._scheduler.tracer.context(request.headers),
            )

        if not key:
            return admit(await self._read_form(request, mask_only=mask_only))

        async def read(reserved: bool) -> tuple[EditForm, str]:
            form = await self._read_form(request, mask_only=mask_only, accept_always=reserved)
            digest = idempotency.form_digest, request.url.path, form
            return form, await self._scheduler.runner.images.run(request.state.owner, *digest)

        return await self._idempotency_keys.job((request.state.owner, key), read, admit)

    async def _read_form(
        self, request: Request, *, mask_only: bool = False, accept_always: bool = False
    ) -> EditForm:
        """Read and check the form. A busy server refuses it before it reads the body."""
        try:
            if not accept_always:
                self._scheduler.check_accepting(request.state.owner)
        except ApiError:
            await form_body.discard_body(request, self._settings)
            raise
        form = await forms.read_form(request, self._settings, self._uploads, mask_only=mask_only)
        if form.model is not None and form.model not in self._model_names:
            raise self._no_model(form.model)
        return await self._scheduler.runner.check_headers(form, request.state.owner)

    @property
    def _model_names(self) -> tuple[str, ...]:
        return (self._engine_host.model, *self._settings.served_model_names)

    def _model(self, name: str) -> dict[str, Any]:
        """The served model under one of its names, as OpenAI's API describes models."""
        model = {"id": name, "object": "model", "owned_by": "local", "created": 0}
        return {**model, **self._engine_host.model_card}

    def _no_model(self, name: str) -> ApiError:
        served = ", ".join(map(repr, self._model_names))
        message = f"There is no model {name[:60]!r}, only {served}; leave model out."
        return ApiError(404, "model_not_found", message, "model")

    def _find_job(self, request: Request, job_id: str) -> Job:
        return self._scheduler.store.find(job_id, request.state.owner)

    def _find_edit(self, request: Request, job_id: str, index: int) -> tuple[EncodedEdit, Job]:
        job = self._find_job(request, job_id)
        if not job.finished:
            message = "The job has not finished; try again in a moment."
            raise ApiError(409, "not_finished", message, "job_id", retry_after=1)
        if job.error is not None:
            raise job.error
        count = len(job.edits)
        if not 0 <= index < count:
            message = f"index is {index}, but the job has {count} edits; count from 0."
            raise ApiError(404, "no_such_image", message, "index")
        return job.edits[index], job

    def _status(self, job: Job) -> dict[str, Any]:
        return responses.job_status(job, self._scheduler.slots.position(job))
