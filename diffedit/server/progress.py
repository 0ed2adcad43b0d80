"""What the engine's thread tells of an edit, brought to the event loop: progress and previews."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffedit.handle import EditHandle
from diffedit.request import EditRequest
from diffedit.server import image_codec, previews
from diffedit.server.jobs import Job

PROGRESS_SECONDS = 0.05
"""At most one progress event in this time: a call may take less than a millisecond."""


class ProgressReporter:
    """What the engine's thread tells of one edit, brought to the event loop."""

    def __init__(
        self,
        job: Job,
        place: int,
        request: EditRequest,
        colours: NDArray[np.float32],
        pool: ThreadPoolExecutor,
    ) -> None:
        """`place`: which of a job's n edits `request` is; `colours`: see `CostModel`."""
        self._job, self._place, self._table, self._pool = job, place, colours, pool
        self._loop = asyncio.get_running_loop()
        self._last, self._stage = 0.0, ""
        self._steps = self._shown = 0
        self._in_order = asyncio.Lock()
        self.pending: asyncio.Future[EditHandle] = self._loop.create_future()
        depth = max(1, round(request.num_inference_steps * request.strength))
        wanted = job.order.partial_images if not place else 0
        self._moments = {round(depth * (k + 1) / (wanted + 1)) for k in range(wanted)}
        self.show = self._show if wanted else None

    def rows(self, stage: str, done: int, total: int) -> None:
        """On the engine's thread, after each call."""
        now = time.monotonic()
        if stage == self._stage and done < total and now - self._last < PROGRESS_SECONDS:
            return
        self._last, self._stage = now, stage
        self._loop.call_soon_threadsafe(self._progress, stage, done / max(1, total))

    def _progress(self, stage: str, share: float) -> None:
        job = self._job
        if job.over:
            return
        job.shares[self._place] = share
        job.stage, job.progress = stage, sum(job.shares.values()) / job.order.n
        job.tell("progress", stage=stage, progress=round(job.progress, 4))

    def _show(self, latent: Tensor, x0: Tensor) -> None:
        """On the engine's thread, after each decoding step."""
        self._steps += 1
        if self._steps in self._moments:
            both = torch.stack([latent, x0]).float().cpu().numpy()
            self._loop.call_soon_threadsafe(self._sketch, both)

    def _sketch(self, both: NDArray[np.float32]) -> None:
        self._job.drawings.append(asyncio.create_task(self._draw(both, self._shown)))
        self._shown += 1

    async def _draw(self, both: NDArray[np.float32], index: int) -> None:
        pending = await self.pending

        def draw() -> bytes:
            table = previews.fit(both[1:], pending.canvas[None], prior=self._table)
            picture = pending.render_preview(previews.colours(both[0], table))
            return image_codec.preview(picture, self._job.order)

        async with self._in_order:
            data = await self._loop.run_in_executor(self._pool, draw)
        if not self._job.over:
            self._job.tell("preview", index=index, image=image_codec.b64(data))
