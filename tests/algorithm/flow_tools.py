"""Running flows without pictures or threads: what the tests of `diffedit.algorithm.edit` share."""

from __future__ import annotations

from typing import Any, TypeVar

import torch

from diffedit.algorithm.cache import TensorCache
from diffedit.algorithm.edit import edit
from diffedit.algorithm.inputs import Caches, EditInputs, EditOutputs
from diffedit.algorithm.schedule import Schedule
from diffedit.request import EditRequest
from engine.backends import Networks
from engine.batcher import Batcher, FlowHandle
from engine.rows import Flow

T = TypeVar("T")
SD_CONFIG = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "set_alpha_to_one": False,
}


def tokens(number: int, length: int = 77) -> tuple[int, ...]:
    """A text of five equal words."""
    return tuple([1] + [number] * 5 + [2] * (length - 6))


def new_caches(size: int = 2**28) -> Caches:
    return Caches(TensorCache(size), TensorCache(size))


def new_task(
    latent: int = 8, factor: int = 8, *, image_seed: int = 0, **options: Any
) -> EditInputs:
    """A task on a random picture; EditInputs's own fields may be given too."""
    own: dict[str, Any] = {
        name: options.pop(name)
        for name in ("source", "target", "negative", "empty", "user_mask", "region", "note")
        if name in options
    }
    side = latent * factor
    generator = torch.Generator().manual_seed(image_seed)
    fields: dict[str, Any] = {
        "request": EditRequest("picture", "text", **options),
        "image": torch.rand((3, side, side), generator=generator) * 2 - 1,
        "region": torch.ones(latent, latent, dtype=torch.bool),
        "source": tokens(20),
        "target": tokens(30),
        "negative": tokens(2),
        "empty": tokens(2),
        "user_mask": None,
        "image_key": f"{image_seed}/{latent}",
    }
    return EditInputs(**{**fields, **own})


def drain(batcher: Batcher) -> None:
    while batcher.step():
        pass


def run(flow: Flow[T], networks: Networks) -> tuple[T, FlowHandle[T]]:
    """One flow to its end on a fresh batcher."""
    batcher = Batcher(networks)
    job = batcher.submit(flow)
    drain(batcher)
    return job.future.result(timeout=0), job


def run_edit(
    networks: Networks, task: EditInputs, schedule: Schedule, caches: Caches | None = None
) -> tuple[EditOutputs, FlowHandle[EditOutputs]]:
    return run(edit(task, schedule, caches or new_caches()), networks)
