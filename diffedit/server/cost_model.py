"""Predicts how long an edit takes, from call times measured on this machine.

The measurement is also the warm-up: a flow that runs every batch profile of every network. This
module knows rows and seconds, not HTTP.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from diffedit.algorithm.edit import expected_rows
from diffedit.algorithm.schedule import Schedule
from diffedit.pipeline import DiffEditPipeline
from diffedit.request import MASKED_METHODS, EditRequest, InvalidRequest
from diffedit.server import previews
from engine.rows import Flow, Row

Calls = Mapping[str, Mapping[int, float]]
"""Network -> batch size -> seconds per call."""


@dataclass(frozen=True)
class CostModel:
    """Call times by network and batch size, and the preview map from the same measurement.

    Attributes:
        calls: see `Calls`.
        rgb_map: float32 [C + 1, 3], latent to RGB in [-1, 1]; the last row is the constant.
        noise_schedule_config: the checkpoint's scheduler config.
        schedules: number of steps -> schedule, filled on demand.
    """

    calls: Calls
    rgb_map: NDArray[np.float32]
    noise_schedule_config: Mapping[str, object]
    schedules: dict[int, Schedule] = field(default_factory=dict, repr=False)

    def row_seconds(self, net: str) -> float:
        """Seconds per row in the profile with the highest throughput."""
        return min(seconds / rows for rows, seconds in self.calls[net].items())

    def call_seconds(self, net: str, rows: int) -> float:
        """Seconds of the calls that run these rows and no others."""
        profiles = self.calls[net]
        full_calls, rest = divmod(rows, max(profiles))
        last = min((p for p in profiles if p >= rest), default=0) if rest else 0
        return full_calls * profiles[max(profiles)] + (profiles[last] if last else 0.0)

    def work_seconds(self, request: EditRequest, *, mask_only: bool = False) -> float:
        """Seconds of device time of an edit that shares its calls with others."""
        rows = _mask_rows(request) if mask_only else expected_rows(request, self._schedule(request))
        rest = self.row_seconds("vae_encode") + 3 * self.row_seconds("text")
        rest += 0.0 if mask_only else self.row_seconds("vae_decode")
        return rows * self.row_seconds("unet") + rest

    def encoding_seconds(self) -> float:
        """Seconds of device time to encode an image with the default options.

        A cached trajectory saves this time.
        """
        default = EditRequest(b"", "any")
        return self._schedule(default).level(default.strength) * self.row_seconds("unet")

    def latency_seconds(self, request: EditRequest, *, mask_only: bool = False) -> float:
        """Seconds from the first to the last call of an edit on an idle device."""
        total = self.call_seconds("text", 3) + self.call_seconds("vae_encode", 1)
        total += self.call_seconds("unet", _mask_rows(request))
        if mask_only:
            return total
        depth = self._schedule(request).level(request.strength)
        if request.method in ("diffedit", "encode-decode"):
            total += depth * self.call_seconds("unet", 1)
        total += depth * self.call_seconds("unet", 1 if request.guidance_scale == 1 else 2)
        return total + self.call_seconds("vae_decode", 1)

    def _schedule(self, request: EditRequest) -> Schedule:
        steps = request.num_inference_steps
        if steps not in self.schedules:
            try:
                self.schedules[steps] = Schedule.from_config(
                    dict(self.noise_schedule_config), steps
                )
            except ValueError as error:
                raise InvalidRequest(str(error)) from None
        return self.schedules[steps]


def _mask_rows(request: EditRequest) -> int:
    finds_mask = request.method in MASKED_METHODS and request.mask_image is None
    return 2 * request.num_maps_per_mask if finds_mask else 0


def measure(pipeline: DiffEditPipeline) -> CostModel:
    """Run every profile once to warm it up and once to time it. Blocks for seconds to minutes."""
    pipeline.batcher.start()
    checkpoint = pipeline.checkpoint
    sizes = pipeline.networks.sizes or ((checkpoint.native_size,) * 2,)
    calls: Calls = {}
    rgb_map = np.zeros((1, 3), np.float32)
    for height, width in sorted(
        sizes, key=lambda size: size[0] * size[1]
    ):  # the largest size is measured last and used for the estimates
        flow = _warm_up(pipeline, (height, width))
        calls, rgb_map = pipeline.batcher.submit(flow).future.result()
    return CostModel(calls, rgb_map, checkpoint.configs["scheduler"])


def _warm_up(
    pipeline: DiffEditPipeline, size: tuple[int, int]
) -> Flow[tuple[Calls, NDArray[np.float32]]]:
    """Run every profile of every network at one image size. A flow, like an edit."""
    device, factor = pipeline.networks.device, pipeline.checkpoint.factor
    ids = torch.zeros(pipeline.checkpoint.tokens, dtype=torch.int64, device=device)
    images = _sample_images(size, factor).to(device)
    (embedding,) = yield [Row("text", (ids,))]
    (latent,) = yield [Row("vae_encode", (images[0],))]
    time_step = torch.tensor(500.0, device=device)
    rows = {
        "text": Row("text", (ids,)),
        "vae_encode": Row("vae_encode", (images[0],)),
        "unet": Row("unet", (latent, time_step, embedding)),
        "vae_decode": Row("vae_decode", (latent,)),
    }
    calls: dict[str, dict[int, float]] = {}
    for net, row in rows.items():
        profiles = pipeline.networks.find(*row.kind).spec.batch_sizes
        for profile in profiles:
            for _ in range(2):
                began = time.perf_counter()
                outputs = yield [row] * profile
                outputs[-1].sum().item()  # synchronises with the device
                calls.setdefault(net, {})[profile] = time.perf_counter() - began
    latents = []
    for image in images:
        (latent,) = yield [Row("vae_encode", (image,))]
        latents.append(latent.float().cpu().numpy())
    return calls, previews.fit_rgb_map(np.stack(latents), images.cpu().numpy())


def _sample_images(size: tuple[int, int], factor: int) -> torch.Tensor:
    """Smooth, colourful images to fit the preview map on, float32 [6, 3, H, W] in [-1, 1]."""
    generator = torch.Generator().manual_seed(0)
    layers = []
    for cells in (2, 4, 8):
        noise = torch.rand((6, 3, cells, cells), generator=generator) * 2 - 1
        layers.append(torch.nn.functional.interpolate(noise, size, mode="bicubic"))
    return (1.2 * layers[0] + 0.6 * layers[1] + 0.3 * layers[2]).clamp(-1, 1)
