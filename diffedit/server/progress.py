"""Progress and previews of an edit: from callbacks on the engine's thread to events of a job."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffedit.handle import EditHandle
from diffedit.method_options import decoding_steps
from diffedit.request import EditRequest
from diffedit.server import image_codec, previews
from diffedit.server.image_pool import ImagePool
from diffedit.server.jobs import Job

MIN_EVENT_INTERVAL = 0.05
"""Seconds between two progress events of one stage; a network call may take less than 1 ms."""


class ProgressReporter:
    """Reports the progress and the previews of one edit to its job.

    Args:
        job: receives the events.
        index: which of the job's n edits this is; only the first one has previews.
        request: the edit.
        rgb_map: the prior of the preview map, see `CostModel`.
        pool: renders the previews.

    Attributes:
        handle: the submitted edit; to be set by the caller.
        on_step: the callback for decoding steps, or None if the client wants no previews.
    """

    def __init__(
        self,
        job: Job,
        index: int,
        request: EditRequest,
        rgb_map: NDArray[np.float32],
        pool: ImagePool,
    ) -> None:
        self._job, self._index, self._rgb_map, self._pool = job, index, rgb_map, pool
        self._loop = asyncio.get_running_loop()
        self._last_report, self._last_stage = 0.0, ""
        self._steps_done = self._previews_started = 0
        self._preview_order = asyncio.Lock()
        self.handle: asyncio.Future[EditHandle] = self._loop.create_future()
        steps = decoding_steps(request)
        count = job.form.partial_images if index == 0 else 0
        self._preview_steps = {round(steps * (k + 1) / (count + 1)) for k in range(count)}
        self.on_step = self._on_step if count else None

    def on_progress(self, stage: str, done: int, total: int) -> None:
        """Callback after each network call, on the engine's thread."""
        now = time.monotonic()
        recent = now - self._last_report < MIN_EVENT_INTERVAL
        if stage == self._last_stage and done < total and recent:
            return
        self._last_report, self._last_stage = now, stage
        self._loop.call_soon_threadsafe(self._report, stage, done / max(1, total))

    def _report(self, stage: str, progress: float) -> None:
        if not self._job.finished:
            self._job.update_progress(self._index, stage, progress)

    def _on_step(self, latent: Tensor, x0: Tensor) -> None:
        """Callback after each decoding step, on the engine's thread."""
        self._steps_done += 1
        if self._steps_done in self._preview_steps:
            latents = torch.stack([latent, x0]).float().cpu().numpy()
            self._loop.call_soon_threadsafe(self._start_preview, latents)

    def _start_preview(self, latents: NDArray[np.float32]) -> None:
        if self._job.finished:
            return
        task = asyncio.create_task(self._preview(latents, self._previews_started))
        self._job.preview_tasks.append(task)
        self._previews_started += 1

    async def _preview(self, latents: NDArray[np.float32], index: int) -> None:
        handle = await self.handle

        def render() -> str:
            rgb_map = previews.fit_rgb_map(latents[1:], handle.canvas[None], prior=self._rgb_map)
            image = handle.render_preview(previews.latent_to_rgb(latents[0], rgb_map))
            return image_codec.to_base64(image_codec.encode_preview(image, self._job.form))

        async with self._preview_order:
            image = await self._pool.run(self._job.owner, render)
        if not self._job.finished:
            self._job.emit("preview", index=index, image=image)
