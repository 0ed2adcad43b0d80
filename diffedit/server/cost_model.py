"""Predict the duration of an edit from call times measured on this machine.

The warm-up of the pipeline measures the calls, and each later call updates the measurement.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from diffedit.algorithm.plan import EditPlan
from diffedit.algorithm.schedule import Schedule
from diffedit.imaging.geometry import choose_size
from diffedit.pipeline import DiffEditPipeline
from diffedit.presets import resolve
from diffedit.request import EditRequest, InvalidRequest
from diffedit.server import previews
from engine.models import STABLE_DIFFUSION, Defaults, ModelFamily, NetworkNames
from engine.netspec import Size
from engine.rows import Flow, Row

Calls = Mapping[str, Mapping[int, float]]
"""Network -> batch size -> seconds per call."""
ImageSize = tuple[int, int] | None
"""(width, height) of an image, or None if it is not known."""
WEIGHT = 0.1
"""Weight of the newest call in the mean."""
OUTLIER = 10.0
"""A call changes the mean as if it took at most this multiple of the mean."""


class CostModel:
    """Call times by network and batch size, and the preview map from the same measurement.

    The times are measured when the model is loaded, at the largest canvas. `observe` updates an
    exponential mean with each later call. A call at another canvas is scaled by its area.

    Attributes:
        networks: the names of the model's networks.
        calls: see `Calls`.
        rgb_map: float32 [C + 1, 3], latent to RGB in [-1, 1]; the last row is the constant.
        scheduler_config: the checkpoint's scheduler config.
        canvases: the canvases of this pipeline.
        defaults: the defaults of the model family.
    """

    def __init__(
        self,
        networks: NetworkNames,
        calls: Calls,
        rgb_map: NDArray[np.float32],
        scheduler_config: Mapping[str, object],
        canvases: Canvases | None = None,
        *,
        defaults: Defaults = STABLE_DIFFUSION,
    ) -> None:
        self.networks, self.rgb_map, self.scheduler_config = networks, rgb_map, scheduler_config
        self.calls = {net: dict(profiles) for net, profiles in calls.items()}
        self.canvases = canvases
        self.defaults = defaults
        self._schedules: dict[int, Schedule] = {}

    def observe(self, net: str, shape: tuple[int, ...], batch_size: int, seconds: float) -> None:
        """Update the time of a call. Called on the engine thread.

        Args:
            net: the network.
            shape: of its first input, without the batch axis.
            batch_size: the profile that ran.
            seconds: duration of the call.
        """
        profiles = self.calls.get(net)
        if profiles is None:
            return
        scale = self.canvases.scale_of_call(net, shape) if self.canvases is not None else 1.0
        known = profiles.get(batch_size) or self.call_seconds(net, batch_size)
        # One outlier, such as the first call at a new size, changes little.
        observed = min(seconds / scale, OUTLIER * known)
        mean = known + WEIGHT * (observed - known)
        self.calls[net] = {**profiles, batch_size: mean}  # the event loop may be reading the old

    @property
    def slowest_call(self) -> float:
        """Seconds of the slowest call."""
        return max((s for calls in self.calls.values() for s in calls.values()), default=0.0)

    def row_seconds(self, net: str) -> float:
        """Seconds per row in the profile with the highest throughput."""
        return min(seconds / rows for rows, seconds in self.calls[net].items())

    def call_seconds(self, net: str, rows: int) -> float:
        """Seconds of the calls that run these rows and no others."""
        profiles = self.calls[net]
        full_calls, rest = divmod(rows, max(profiles))
        last = min((p for p in profiles if p >= rest), default=0) if rest else 0
        return full_calls * profiles[max(profiles)] + (profiles[last] if last else 0.0)

    def work_seconds(
        self, request: EditRequest, image_size: ImageSize = None, *, mask_only: bool = False
    ) -> float:
        """Seconds of device time of an edit that shares its calls with others."""
        request = resolve(request, self.defaults)
        plan, names = self._plan(request, mask_only), self.networks
        seconds = {net: self.row_seconds(net) for net in self.calls}
        total = plan.rows * seconds[names.denoiser]
        total += plan.image_encodings(request) * seconds[names.image_encoder]
        total += seconds[names.image_decoder] if plan.decodes_image else 0.0
        texts = plan.distinct_texts(request) * sum(seconds[net] for net in names.text_encoders)
        return total * self._scale(image_size) + texts

    def encoding_seconds(self) -> float:
        """Seconds of device time to encode an image with the default options.

        A cached trajectory saves this time.
        """
        default = resolve(EditRequest(b"", "any"), self.defaults)
        plan = EditPlan.for_inversion(default, self._schedule(default))
        return plan.rows * self.row_seconds(self.networks.denoiser)

    def latency_seconds(
        self, request: EditRequest, image_size: ImageSize = None, *, mask_only: bool = False
    ) -> float:
        """Seconds from the first to the last call of an edit on an idle device."""
        request = resolve(request, self.defaults)
        plan, names, call = self._plan(request, mask_only), self.networks, self.call_seconds
        texts = sum(call(net, plan.distinct_texts(request)) for net in names.text_encoders)
        total = plan.image_encodings(request) * call(names.image_encoder, 1)
        total += sum(s.calls * call(names.denoiser, s.rows_per_call) for s in plan.stages)
        total += call(names.image_decoder, 1) if plan.decodes_image else 0.0
        return total * self._scale(image_size) + texts

    def _scale(self, image_size: ImageSize) -> float:
        if self.canvases is None or image_size is None:
            return 1.0
        return self.canvases.scale_of_image(image_size)

    def _plan(self, request: EditRequest, mask_only: bool) -> EditPlan:
        schedule = self._schedule(request)
        if mask_only:
            return EditPlan.for_mask(request, schedule)
        embeds_guidance = self.defaults.guidance == "embedded"
        return EditPlan.for_edit(request, schedule, embeds_guidance=embeds_guidance)

    def _schedule(self, request: EditRequest) -> Schedule:
        steps = request.num_inference_steps
        if steps not in self._schedules:
            try:
                schedule = Schedule.from_config(dict(self.scheduler_config), steps)
            except ValueError as error:
                raise InvalidRequest(str(error)) from None
            self._schedules[steps] = schedule
        return self._schedules[steps]


@dataclass(frozen=True)
class Canvases:
    """The canvases of a pipeline, and the one whose calls are measured.

    Attributes:
        family: computes the canvas of a network's input.
        sizes: (height, width) of the canvases that were measured.
    """

    family: ModelFamily
    sizes: tuple[Size, ...]

    @property
    def reference(self) -> Size:
        """The largest canvas."""
        return max(self.sizes, key=_area)

    def scale_of_call(self, net: str, shape: tuple[int, ...]) -> float:
        """Area of a call's canvas relative to the reference; 1 for networks without one."""
        return _area(self.family.size_of(net, shape) or self.reference) / _area(self.reference)

    def scale_of_image(self, image_size: tuple[int, int]) -> float:
        """Area of the canvas of an image of (width, height), relative to the reference."""
        width, height = image_size
        native, factor = self.family.native_size, self.family.factor
        canvas = choose_size((height, width), self.sizes, native, factor)
        return _area(canvas) / _area(self.reference)


def _area(size: Size) -> int:
    return size[0] * size[1]


def measure(pipeline: DiffEditPipeline) -> CostModel:
    """The cost model and the preview map of the largest size. Warms the pipeline up if it is not.

    Blocks for seconds to minutes.
    """
    costs = pipeline.costs or pipeline.warm_up()
    checkpoint = pipeline.checkpoint
    networks = [net for net, _ in costs]
    sizes = tuple(size for net, size in costs if net == checkpoint.names.denoiser and size)
    canvases = Canvases(checkpoint.family, sizes)
    sized = {canvases.reference, None}
    calls = {net: costs[net, size] for net in networks for size in sized if (net, size) in costs}
    flow = _fit_preview(pipeline, canvases.reference)
    rgb_map = pipeline.batcher.submit(flow).future.result()
    return CostModel(
        checkpoint.names,
        calls,
        rgb_map,
        checkpoint.scheduler_config,
        canvases,
        defaults=checkpoint.family.defaults,
    )


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
