"""What an edit will take on this machine: measured per network and profile before it is ready.

The measuring is the warm-up: a flow that fills every profile of every network. It knows rows and
seconds, not HTTP.
"""

from __future__ import annotations

import time
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
from engine.rows import Flow, Row

Calls = Mapping[str, Mapping[int, float]]
"""Network -> rows in a call -> seconds of that call."""


@dataclass(frozen=True)
class CostModel:
    """Seconds per call, by network and profile, and the preview map that was fitted meanwhile.

    Attributes:
        networks: the names of the model's networks.
        calls: see `Calls`.
        colours: float32 [C + 1, 3], latent to RGB in [-1, 1]; the last row is the constant.
        scheduler_config: the checkpoint's, for the plan of an edit.
    """

    networks: NetworkNames
    calls: Calls
    colours: NDArray[np.float32]
    scheduler_config: Mapping[str, object]
    _schedules: dict[int, Schedule] = field(default_factory=dict, repr=False)

    def row_seconds(self, net: str) -> float:
        """Seconds of one row in the profile with the highest throughput."""
        return min(seconds / rows for rows, seconds in self.calls[net].items())

    def call_seconds(self, net: str, rows: int) -> float:
        """Seconds of the calls that hold this many rows and no others."""
        profiles = self.calls[net]
        whole, rest = divmod(rows, max(profiles))
        last = min((p for p in profiles if p >= rest), default=0) if rest else 0
        return whole * profiles[max(profiles)] + (profiles[last] if last else 0.0)

    def work(self, request: EditRequest, *, mask_only: bool = False) -> float:
        """Device seconds of an edit that shares its calls with others."""
        plan = self._plan(request, mask_only)
        seconds = {net: self.row_seconds(net) for net in self.calls}
        total = plan.rows * seconds[self.networks.denoiser]
        total += seconds[self.networks.image_encoder]
        total += plan.distinct_texts(request) * sum(seconds[n] for n in self.networks.text_encoders)
        return total + (seconds[self.networks.image_decoder] if plan.decodes_image else 0.0)

    def alone(self, request: EditRequest, *, mask_only: bool = False) -> float:
        """Seconds of an edit on an idle device, from the first call to the last."""
        plan, call = self._plan(request, mask_only), self.call_seconds
        total = sum(call(n, plan.distinct_texts(request)) for n in self.networks.text_encoders)
        total += call(self.networks.image_encoder, 1)
        for stage in plan.stages:
            total += stage.calls * call(self.networks.denoiser, stage.rows_per_call)
        return total + (call(self.networks.image_decoder, 1) if plan.decodes_image else 0.0)

    def encoding(self) -> float:
        """Seconds to encode a picture at the default options, which a cached trajectory saves."""
        default = EditRequest(b"", "any")
        plan = EditPlan.for_inversion(default, self._schedule(default))
        return plan.rows * self.row_seconds(self.networks.denoiser)

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


def measure(pipe: DiffEditPipeline) -> CostModel:
    """Run every profile once to warm it up and once more to time it. Blocks; seconds to minutes."""
    pipe.batcher.start()
    checkpoint = pipe.checkpoint
    sizes = pipe.networks.sizes or ((checkpoint.family.native_size,) * 2,)
    calls: Calls = {}
    colours = np.zeros((1, 3), np.float32)
    for height, width in sorted(
        sizes, key=lambda size: size[0] * size[1]
    ):  # estimates: the largest
        flow = _warm_up(pipe, (height, width))
        calls, colours = pipe.batcher.submit(flow).future.result()
    return CostModel(checkpoint.names, calls, colours, checkpoint.scheduler_config)


def _warm_up(
    pipe: DiffEditPipeline, size: tuple[int, int]
) -> Flow[tuple[Calls, NDArray[np.float32]]]:
    """Every profile of every network at one picture size, on the engine's thread like any flow."""
    device, family, nets = pipe.networks.device, pipe.checkpoint.family, pipe.checkpoint.names
    ids = torch.zeros(family.tokens, dtype=torch.int64, device=device)
    pictures = _pictures(size, family.factor).to(device)
    (text_encoder,) = nets.text_encoders
    (embedding,) = yield [Row(text_encoder, (ids,))]
    (latent,) = yield [Row(nets.image_encoder, (pictures[0],))]
    timestep = torch.tensor(500.0, device=device)
    rows = {
        text_encoder: Row(text_encoder, (ids,)),
        nets.image_encoder: Row(nets.image_encoder, (pictures[0],)),
        nets.denoiser: Row(nets.denoiser, (latent, timestep, embedding)),
        nets.image_decoder: Row(nets.image_decoder, (latent,)),
    }
    calls: dict[str, dict[int, float]] = {}
    for net, row in rows.items():
        profiles = pipe.networks.find(*row.kind).spec.batch_sizes
        for profile in profiles:
            for _ in range(2):
                began = time.perf_counter()
                outputs = yield [row] * profile
                outputs[-1].sum().item()  # waits for the device
                calls.setdefault(net, {})[profile] = time.perf_counter() - began
    latents = []
    for picture in pictures:
        (seen,) = yield [Row(nets.image_encoder, (picture,))]
        latents.append(seen.float().cpu().numpy())
    return calls, previews.fit(np.stack(latents), pictures.cpu().numpy())


def _pictures(size: tuple[int, int], factor: int) -> torch.Tensor:
    """Colourful, smooth pictures, float32 [6, 3, H, W] in [-1, 1]: what a map can be fitted on."""
    generator = torch.Generator().manual_seed(0)
    layers = []
    for cells in (2, 4, 8):
        noise = torch.rand((6, 3, cells, cells), generator=generator) * 2 - 1
        layers.append(torch.nn.functional.interpolate(noise, size, mode="bicubic"))
    return (1.2 * layers[0] + 0.6 * layers[1] + 0.3 * layers[2]).clamp(-1, 1)
