"""The same edit as plain PyTorch loops over the checkpoint's own modules: the reference.

No rows, no batcher, no caches, no shared step function. The formulas are written out as in the
paper, one example at a time, in fp32. Every faster implementation is tested against it end to end.
Step 1 is `reference_setup.find_masks`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diffedit.algorithm.reference_models import ReferenceModel
from diffedit.algorithm.reference_setup import (
    Reference,
    Setup,
    TextIds,
    apart,
    core,
    find_masks,
    noise_of,
    set_up,
)
from diffedit.algorithm.schedule import Schedule
from diffedit.request import EditRequest


@torch.inference_mode()
def edit(
    model: ReferenceModel,
    schedule: Schedule,
    request: EditRequest,
    image: Tensor,
    ids: TextIds,
    region: Tensor,
    user_mask: Tensor | None = None,
    pairs: Sequence[tuple[str, str]] = (("source", "target"),),
) -> Reference:
    """Edit `image`, float32 [1, 3, H, W] in [-1, 1], with the options of `request`.

    `ids` are "source", "target", "negative" and "empty"; `region` is bool [h, w], the latent cells
    that show the photograph. `user_mask`, float32 [h, w] in [0, 1], replaces the computed mask; a
    cell of value v takes the last v d steps. `pairs` names the two texts of each of several edits.
    """
    setup = set_up(model, schedule, request, image, ids)
    if user_mask is None:
        found = find_masks(setup, region, pairs)
    else:
        found = [(user_mask, (user_mask > 0) & region)]
    masks = apart([mask for _, mask in found], [core(one, region, request) for one in found])
    heat = torch.stack([heat for heat, _ in found]).amax(0)
    mask = torch.stack(masks).any(0)

    # Step 2: encode without text; every prediction is used for `inversion_stride` steps
    d = max(1, round(schedule.steps * request.strength))
    trajectory = [setup.x0]
    for i in range(d):
        if i % request.inversion_stride == 0:
            above = min(i + request.inversion_stride, schedule.steps)
            eps = noise(setup, trajectory[i], i, "empty", at=above)
        trajectory.append(step(schedule, trajectory[i], eps, i, i + 1))

    # Step 3: decode under the mask
    y = trajectory[d]
    for i in range(d, 0, -1):
        eps = torch.zeros_like(y)
        for cells, (_, target) in zip(masks, pairs, strict=True):
            eps = torch.where(cells, guided_noise(setup, y, i, target), eps)
        free = mask if user_mask is None else mask & (user_mask * d >= i)
        y = torch.where(free, step(schedule, y, eps, i, i - 1), trajectory[i - 1])
    return Reference(setup.x0, heat, mask, y, model.decode(y), tuple(trajectory), tuple(masks))


def step(schedule: Schedule, x: Tensor, eps: Tensor, i: int, j: int) -> Tensor:
    """x at level j from x at level i and the noise in it: equation 2 of the paper."""
    alpha, sigma = schedule.alphas, schedule.sigmas
    predicted_x0 = (x - sigma[i] * eps) / alpha[i]
    return alpha[j] * predicted_x0 + sigma[j] * eps


def noise(
    setup: Setup, x: Tensor, i: int, name: str, guidance: float = 1.0, *, at: int | None = None
) -> Tensor:
    """The noise in x at level i, predicted at the timestep of level `at`, by default i."""
    t = setup.schedule.timesteps[i if at is None else at]
    return noise_of(setup.schedule, x, setup.predict(x, t, name, guidance), i)


def guided_noise(setup: Setup, y: Tensor, i: int, target: str) -> Tensor:
    """The noise in y at level i under a target's text, guided inside the guidance interval."""
    low, high = setup.request.guidance_interval
    g = setup.request.guidance_scale
    if not low < i / setup.schedule.steps <= high:
        return noise(setup, y, i, target)
    if setup.model.embeds_guidance:
        return noise(setup, y, i, target, g)
    e_negative, e_target = (noise(setup, y, i, name) for name in ("negative", target))
    return e_negative + g * (e_target - e_negative)
