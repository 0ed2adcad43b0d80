"""Running flows without pictures or threads: what the tests of `diffedit.algorithm.edit` share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from diffedit.algorithm import edit as flows
from diffedit.algorithm.cache import Caches, TensorCache, TextIds
from diffedit.algorithm.inputs import EditInputs, EditOutputs
from diffedit.algorithm.plan import EditPlan
from diffedit.algorithm.schedule import Schedule
from diffedit.presets import resolve
from diffedit.request import EditRequest
from engine.backends import Networks
from engine.batcher import Batcher
from engine.flow_handle import FlowHandle
from engine.models import Defaults, NetworkNames
from engine.models.stable_diffusion import StableDiffusion
from engine.rows import Flow

T = TypeVar("T")
TEXTS = ("source", "target", "negative", "empty")
NAMES = NetworkNames.of(StableDiffusion({}))
SD_CONFIG = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "set_alpha_to_one": False,
}


def resolved(request: EditRequest) -> EditRequest:
    """The request with the defaults of Stable Diffusion 1 and 2."""
    return resolve(request, Defaults())


def tokens(number: int, length: int = 77) -> TextIds:
    """A text of five equal words."""
    return (tuple([1] + [number] * 5 + [2] * (length - 6)),)


def condition(ids: TextIds, answers: Sequence[Any]) -> tuple[Tensor, ...]:
    """The conditioning of families with one text network and one output."""
    return (answers[0],)


def new_caches(size: int = 2**28) -> Caches:
    return Caches(TensorCache(size), TensorCache(size))


def new_inputs(
    latent: int = 8, factor: int = 8, *, image_seed: int = 0, **options: Any
) -> EditInputs:
    """Inputs with a random picture, with the paper's settings where `options` do not say another
    preset. `options` are fields of EditRequest or of EditInputs."""
    own: dict[str, Any] = {
        name: options.pop(name)
        for name in (*TEXTS, "more", "user_mask", "region", "on_stage")
        if name in options
    }
    prompt = "" if "edits" in options else "text"
    side = latent * factor
    generator = torch.Generator().manual_seed(image_seed)
    fields: dict[str, Any] = {
        "request": resolved(EditRequest("picture", prompt, **{"preset": "paper", **options})),
        "networks": NAMES,
        "image": torch.rand((3, side, side), generator=generator) * 2 - 1,
        "region": torch.ones(latent, latent, dtype=torch.bool),
        "source": tokens(20),
        "target": tokens(30),
        "negative": tokens(2),
        "empty": tokens(2),
        "condition": condition,
        "user_mask": None,
        "image_key": f"{image_seed}/{latent}",
    }
    return EditInputs(**{**fields, **own})


def drain(batcher: Batcher) -> None:
    while batcher.step():
        pass


def run(flow: Flow[T], networks: Networks) -> tuple[T, FlowHandle[T]]:
    """Run one flow to its end on a new batcher."""
    batcher = Batcher(networks)
    handle = batcher.submit(flow)
    drain(batcher)
    return handle.future.result(timeout=0), handle


def run_edit(
    networks: Networks, inputs: EditInputs, schedule: Schedule, caches: Caches | None = None
) -> tuple[EditOutputs, FlowHandle[EditOutputs]]:
    return run(edit_flow(inputs, schedule, caches or new_caches()), networks)


def edit_plan(inputs: EditInputs, schedule: Schedule, caches: Caches) -> EditPlan:
    stride = inputs.request.inversion_stride
    known_levels = caches.known_levels((inputs.image_key, schedule, stride))
    return EditPlan.for_edit(inputs.request, schedule, known_levels)


def edit_flow(inputs: EditInputs, schedule: Schedule, caches: Caches) -> Flow[EditOutputs]:
    return flows.edit(inputs, edit_plan(inputs, schedule, caches), caches)


def mask_flow(inputs: EditInputs, schedule: Schedule, caches: Caches) -> Flow[EditOutputs]:
    return flows.mask_only(inputs, EditPlan.for_mask(inputs.request, schedule), caches)


def encode_flow(inputs: EditInputs, schedule: Schedule, caches: Caches) -> Flow[Tensor]:
    return flows.encode_only(inputs, EditPlan.for_inversion(inputs.request, schedule), caches)


TEN = Schedule.from_config(SD_CONFIG, 10)
FIFTY = Schedule.from_config(SD_CONFIG, 50)


def step(schedule: Schedule, prediction: Tensor, x: Tensor, i: int, j: int) -> Tensor:
    """x at level j from x at level i and the denoiser's raw prediction, as the flows compute it."""
    return schedule.noise(*schedule.split(prediction, x, i), j)


def some_mask(side: int = 8) -> torch.Tensor:
    mask = torch.zeros(side, side, dtype=torch.bool)
    mask[2:5, 1:6] = True
    return mask


def poison(net: str, after: int = 0) -> Any:
    """A fault that answers NaN from the call number `after` of `net` on."""
    seen: list[str] = []

    def fault(name: str, batch: Any, output: torch.Tensor) -> torch.Tensor | None:
        seen.append(name)
        return output * float("nan") if name == net and seen.count(net) > after else None

    return fault
