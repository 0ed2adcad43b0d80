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

from diffedit.algorithm.edit import expected_rows
from diffedit.algorithm.schedule import Schedule
from diffedit.pipeline import DiffEditPipeline
from diffedit.request import MASKED_METHODS, EditRequest, InvalidRequest
from diffedit.server import previews
from engine.rows import Flow, Row

Calls = Mapping[str, Mapping[int, float]]
"""Network -> rows in a call -> seconds of that call."""


@dataclass(frozen=True)
class CostModel:
    """Seconds per call, by network and profile, and the preview map fitted on the way.

    Attributes:
        calls: see `Calls`.
        colours: float32 [C + 1, 3], latent to RGB in [-1, 1]; the last line is the constant.
        noise_schedule_config: the checkpoint's scheduler config, for the depth of an edit.
        grids: schedules by their steps, made as they are asked for.
    """

    calls: Calls
    colours: NDArray[np.float32]
    noise_schedule_config: Mapping[str, object]
    grids: dict[int, Schedule] = field(default_factory=dict, repr=False)

    def row_seconds(self, net: str) -> float:
        """A row's share of the profile that serves rows fastest."""
        return min(seconds / rows for rows, seconds in self.calls[net].items())

    def call_seconds(self, net: str, rows: int) -> float:
        """Calls that hold this many rows and nothing else."""
        profiles = self.calls[net]
        whole, rest = divmod(rows, max(profiles))
        last = min((p for p in profiles if p >= rest), default=0) if rest else 0
        return whole * profiles[max(profiles)] + (profiles[last] if last else 0.0)

    def work(self, request: EditRequest, *, mask_only: bool = False) -> float:
        """Seconds of the device that an edit uses up beside others."""
        rows = _mask_rows(request) if mask_only else expected_rows(request, self._grid(request))
        rest = self.row_seconds("vae_encode") + 3 * self.row_seconds("text")
        rest += 0.0 if mask_only else self.row_seconds("vae_decode")
        return rows * self.row_seconds("unet") + rest

    def encoding(self) -> float:
        """Seconds that a picture's encoding takes at the default options, and a kept one saves."""
        usual = EditRequest(b"", "any")
        return self._grid(usual).level(usual.strength) * self.row_seconds("unet")

    def alone(self, request: EditRequest, *, mask_only: bool = False) -> float:
        """Seconds of an edit on an idle device, from the first call to the last."""
        total = self.call_seconds("text", 3) + self.call_seconds("vae_encode", 1)
        total += self.call_seconds("unet", _mask_rows(request))
        if mask_only:
            return total
        depth = self._grid(request).level(request.strength)
        if request.method in ("diffedit", "encode-decode"):
            total += depth * self.call_seconds("unet", 1)
        total += depth * self.call_seconds("unet", 1 if request.guidance_scale == 1 else 2)
        return total + self.call_seconds("vae_decode", 1)

    def _grid(self, request: EditRequest) -> Schedule:
        steps = request.num_inference_steps
        if steps not in self.grids:
            try:
                self.grids[steps] = Schedule.from_config(dict(self.noise_schedule_config), steps)
            except ValueError as error:
                raise InvalidRequest(str(error)) from None
        return self.grids[steps]


def _mask_rows(request: EditRequest) -> int:
    finds = request.method in MASKED_METHODS and request.mask_image is None
    return 2 * request.num_maps_per_mask if finds else 0


def measure(pipe: DiffEditPipeline) -> CostModel:
    """Run every profile once to warm it up and once more to time it. Blocks; seconds to minutes."""
    pipe.batcher.start()
    checkpoint = pipe.checkpoint
    sizes = pipe.networks.sizes or ((checkpoint.native_size,) * 2,)
    calls: Calls = {}
    colours = np.zeros((1, 3), np.float32)
    for height, width in sorted(
        sizes, key=lambda size: size[0] * size[1]
    ):  # estimates: the largest
        flow = _warm_up(pipe, (height, width))
        calls, colours = pipe.batcher.submit(flow).future.result()
    return CostModel(calls, colours, checkpoint.configs["scheduler"])


def _warm_up(
    pipe: DiffEditPipeline, size: tuple[int, int]
) -> Flow[tuple[Calls, NDArray[np.float32]]]:
    """Every profile of every network at one picture size, on the engine's thread like any flow."""
    device, factor = pipe.networks.device, pipe.checkpoint.factor
    ids = torch.zeros(pipe.checkpoint.tokens, dtype=torch.int64, device=device)
    pictures = _pictures(size, factor).to(device)
    (embedding,) = yield [Row("text", (ids,))]
    (latent,) = yield [Row("vae_encode", (pictures[0],))]
    time_step = torch.tensor(500.0, device=device)
    rows = {
        "text": Row("text", (ids,)),
        "vae_encode": Row("vae_encode", (pictures[0],)),
        "unet": Row("unet", (latent, time_step, embedding)),
        "vae_decode": Row("vae_decode", (latent,)),
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
        (seen,) = yield [Row("vae_encode", (picture,))]
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
