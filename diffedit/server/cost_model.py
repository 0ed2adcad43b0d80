"""Predicts how long an edit takes, from call times measured on this machine.

The warm-up of the pipeline measures the calls. This module knows rows and seconds, not HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from diffedit.algorithm.plan import EditPlan
from diffedit.algorithm.schedule import Schedule
from diffedit.pipeline import DiffEditPipeline
from diffedit.request import EditRequest, InvalidRequest
from diffedit.server import previews
from engine.models import NetworkNames
from engine.netspec import Size
from engine.rows import Flow, Row

Calls = Mapping[str, Mapping[int, float]]
"""Network -> batch size -> seconds per call."""


@dataclass(frozen=True)
class CostModel:
    """Call times by network and batch size, and the preview map from the same measurement.

    Attributes:
        networks: the names of the model's networks.
        calls: see `Calls`.
        rgb_map: float32 [C + 1, 3], latent to RGB in [-1, 1]; the last row is the constant.
        scheduler_config: the checkpoint's scheduler config.
    """

    networks: NetworkNames
    calls: Calls
    rgb_map: NDArray[np.float32]
    scheduler_config: Mapping[str, object]
    _schedules: dict[int, Schedule] = field(default_factory=dict, repr=False)

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
        plan, names = self._plan(request, mask_only), self.networks
        seconds = {net: self.row_seconds(net) for net in self.calls}
        total = plan.rows * seconds[names.denoiser] + seconds[names.image_encoder]
        total += plan.distinct_texts(request) * sum(seconds[net] for net in names.text_encoders)
        return total + (seconds[names.image_decoder] if plan.decodes_image else 0.0)

    def encoding_seconds(self) -> float:
        """Seconds of device time to encode an image with the default options.

        A cached trajectory saves this time.
        """
        default = EditRequest(b"", "any")
        plan = EditPlan.for_inversion(default, self._schedule(default))
        return plan.rows * self.row_seconds(self.networks.denoiser)

    def latency_seconds(self, request: EditRequest, *, mask_only: bool = False) -> float:
        """Seconds from the first to the last call of an edit on an idle device."""
        plan, names, call = self._plan(request, mask_only), self.networks, self.call_seconds
        total = sum(call(net, plan.distinct_texts(request)) for net in names.text_encoders)
        total += call(names.image_encoder, 1)
        total += sum(s.calls * call(names.denoiser, s.rows_per_call) for s in plan.stages)
        return total + (call(names.image_decoder, 1) if plan.decodes_image else 0.0)

    def _plan(self, request: EditRequest, mask_only: bool) -> EditPlan:
        make = EditPlan.for_mask if mask_only else EditPlan.for_edit
        return make(request, self._schedule(request))

    def _schedule(self, request: EditRequest) -> Schedule:
        steps = request.num_inference_steps
        if steps not in self._schedules:
            try:
                schedule = Schedule.from_config(dict(self.scheduler_config), steps)
            except ValueError as error:
                raise InvalidRequest(str(error)) from None
            self._schedules[steps] = schedule
        return self._schedules[steps]


def measure(pipeline: DiffEditPipeline) -> CostModel:
    """The cost model and the preview map of the largest size. Warms the pipeline up if it is not.

    Blocks for seconds to minutes.
    """
    costs = pipeline.costs or pipeline.warm_up()
    checkpoint = pipeline.checkpoint
    # Ordered by size: the largest comes last and is used for the estimates.
    calls = {net: profiles for (net, _), profiles in costs.items()}
    (*_, size) = (size for (net, size) in costs if net == checkpoint.names.denoiser)
    assert size is not None
    rgb_map = pipeline.batcher.submit(_fit_preview(pipeline, size)).future.result()
    return CostModel(checkpoint.names, calls, rgb_map, checkpoint.scheduler_config)


def _fit_preview(pipeline: DiffEditPipeline, size: Size) -> Flow[NDArray[np.float32]]:
    """Encode sample images and fit the preview map to them. A flow, like an edit."""
    network = pipeline.checkpoint.names.image_encoder
    images = _sample_images(size, pipeline.checkpoint.family.factor)
    latents = []
    for image in images.to(pipeline.networks.device):
        (latent,) = yield [Row(network, (image,))]
        latents.append(latent.float().cpu().numpy())
    return previews.fit_rgb_map(np.stack(latents), images.numpy())


def _sample_images(size: tuple[int, int], factor: int) -> torch.Tensor:
    """Smooth, colourful images to fit the preview map on, float32 [6, 3, H, W] in [-1, 1]."""
    generator = torch.Generator().manual_seed(0)
    layers = []
    for cells in (2, 4, 8):
        noise = torch.rand((6, 3, cells, cells), generator=generator) * 2 - 1
        layers.append(torch.nn.functional.interpolate(noise, size, mode="bicubic"))
    return (1.2 * layers[0] + 0.6 * layers[1] + 0.3 * layers[2]).clamp(-1, 1)
