"""Runs one admitted job: decode the form, submit the edits, wait for the networks, encode.

Image work runs in the image pool and the networks on the engine's thread; the event loop never
blocks. The queue and the deadline are the scheduler's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from diffedit.handle import EditHandle
from diffedit.pipeline import DiffEditPipeline
from diffedit.server import image_codec
from diffedit.server.engine_host import EngineHost
from diffedit.server.errors import engine_lost
from diffedit.server.fair_queue import Owner
from diffedit.server.forms import EditForm
from diffedit.server.image_codec import DecodedForm, EncodedEdit
from diffedit.server.image_pool import ImagePool
from diffedit.server.jobs import Job
from diffedit.server.progress import ProgressReporter
from diffedit.server.settings import Settings
from diffedit.server.threads import retrieve_exception, wait_for

log = logging.getLogger(__name__)

ENGINE_POLL_SECONDS = 0.1
IMAGE_THREADS = 4


class JobRunner:
    """Runs jobs on the pipeline of one `EngineHost`.

    Attributes:
        images: the threads that decode and encode images.
    """

    def __init__(self, engine_host: EngineHost, settings: Settings) -> None:
        self._engine_host, self._settings = engine_host, settings
        self.images = ImagePool(IMAGE_THREADS)

    def close(self) -> None:
        """Stop the image pool."""
        self.images.close()

    async def check_headers(self, form: EditForm, owner: Owner) -> EditForm:
        """Check the headers of a form's images. Returns the form with its image's size and digest.

        Raises ApiError.
        """
        return await self.images.run(owner, image_codec.check_headers, form, self._settings)

    async def run(self, job: Job) -> None:
        """Run a job and store its results in `job.edits`. Errors propagate."""
        try:
            with _timed(job, "open"):
                decoded = await self.images.run(
                    job.owner, image_codec.decode_form, job.form, self._settings
                )
            job.mask_read_as, job.image_size = decoded.mask_read_as, decoded.photo.size
            pipeline = await self._engine_host.acquire()
            try:
                await self._run_edits(job, decoded, pipeline)
                with _timed(job, "encode"):
                    await self._encode(job, decoded, pipeline.checkpoint.family.factor)
            finally:
                self._engine_host.release()
        finally:
            for handle in job.handles:
                handle.cancel()
            for preview in job.preview_tasks:
                preview.cancel()
                retrieve_exception(preview)
            job.handles.clear()

    async def _run_edits(self, job: Job, decoded: DecodedForm, pipeline: DiffEditPipeline) -> None:
        """Submit the n edits and wait for their networks and previews."""
        job.state = "running"
        job.emit("state", state="running", position=0)
        assert self._engine_host.cost_model is not None  # admission needs it
        rgb_map = self._engine_host.cost_model.rgb_map
        for index, request in enumerate(decoded.requests):
            resolved = pipeline.resolve(request)
            reporter = ProgressReporter(job, index, resolved, rgb_map, self.images)
            submit = partial(
                pipeline.submit,
                callback=reporter.on_progress,
                on_preview=reporter.on_step,
                mask_only=job.mask_only,
                group=job.owner,
            )
            submitted = self.images.submit(job.owner, submit, resolved)
            handle = await wait_for(submitted, EditHandle.cancel)
            reporter.handle.set_result(handle)
            job.handles.append(handle)
        for handle in list(job.handles):
            await self._wait_for_networks(handle)
        for error in await asyncio.gather(*job.preview_tasks, return_exceptions=True):
            if isinstance(error, Exception):
                log.warning("request %s: a preview failed", job.request_id, exc_info=error)

    async def _wait_for_networks(self, handle: EditHandle) -> None:
        """Wait for the networks of an edit. Raises ApiError if the engine fails meanwhile."""
        future = asyncio.wrap_future(handle.future)
        try:
            while not future.done():
                await asyncio.wait([future], timeout=ENGINE_POLL_SECONDS)
                if self._engine_host.failure_reason:
                    raise engine_lost(self._engine_host.failure_reason)
            future.result()
        finally:
            if not future.cancel():
                retrieve_exception(future)

    async def _encode(self, job: Job, decoded: DecodedForm, factor: int) -> None:
        job.stage = "writing"
        job.emit("progress", stage="writing", progress=round(job.progress, 4))

        def encode(handle: EditHandle) -> EncodedEdit:
            edit = image_codec.encode_edit(
                decoded.photo, handle.result(), job.form, factor, mask_only=job.mask_only
            )
            # Show the served name to clients instead of the folder's name.
            served = replace(edit.provenance, model=self._engine_host.model)
            return replace(edit, provenance=served)

        job.edits = [await self.images.run(job.owner, encode, one) for one in job.handles]


@contextlib.contextmanager
def _timed(job: Job, stage: str) -> Iterator[None]:
    """Store the duration of a stage in `job.timings`, unless it raises."""
    began = time.monotonic()
    yield
    job.timings[stage] = time.monotonic() - began
