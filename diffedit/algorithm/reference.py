"""The same edit as plain PyTorch loops over the checkpoint's own modules: the oracle.

No rows, no batcher, no caches, no shared step function. The formulas are written out as in the
paper, one example at a time, in fp32. Every faster way is tested against it, end to end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffedit.algorithm.reference_mask import found_mask
from diffedit.algorithm.reference_models import ReferenceModel
from diffedit.algorithm.schedule import Schedule
from diffedit.request import EditRequest


@dataclass(frozen=True)
class Reference:
    """Every intermediate result.

    Attributes:
        x0: the encoded image, float32 [1, C, h, w].
        heat: float32 [h, w] in [0, 1].
        mask: bool [h, w].
        trajectory: x_0 to x_d, each float32 [1, C, h, w].
        latents: y_0, float32 [1, C, h, w].
        image: float32 [1, 3, H, W] in [-1, 1].
    """

    x0: Tensor
    heat: Tensor
    mask: Tensor
    trajectory: list[Tensor]
    latents: Tensor
    image: Tensor


@torch.inference_mode()
def edit(
    model: ReferenceModel,
    schedule: Schedule,
    request: EditRequest,
    image: Tensor,
    ids: Mapping[str, Sequence[Tensor]],
    region: Tensor,
    user_mask: Tensor | None = None,
) -> Reference:
    """Edit `image`, float32 [1, 3, H, W] in [-1, 1], with the options of `request`.

    `ids` are "source", "target", "negative" and "empty", each one int64 [1, T] per text encoder;
    `region` is bool [h, w], the latent cells that show the photograph. `user_mask`, float32 [h, w]
    in [0, 1], replaces the computed mask; a cell of value v takes the last v d steps.
    """
    alpha, sigma, times = schedule.alphas, schedule.sigmas, schedule.timesteps
    text = {name: model.embed(tokens) for name, tokens in ids.items()}
    generator = torch.Generator("cpu").manual_seed(request.seed)

    def predict(x: Tensor, i: int, t: float, name: str, guidance: float = 1.0) -> Tensor:
        """The noise in x at level i, predicted at timestep t under a text."""
        out = model.predict(x, torch.tensor([t]), text[name], guidance)
        return noise_of(schedule, x, out, i)

    def step(x: Tensor, eps: Tensor, i: int, j: int) -> Tensor:
        predicted_x0 = (x - sigma[i] * eps) / alpha[i]
        return alpha[j] * predicted_x0 + sigma[j] * eps

    # Step 1: where do the two texts disagree?
    x0 = model.encode(image)
    m = max(1, round(schedule.steps * request.mask_encode_strength))
    differences: list[Tensor] = []
    mask = torch.zeros_like(region)
    for z in torch.randn((request.num_maps_per_mask, *x0.shape[1:]), generator=generator):
        x = alpha[m] * x0 + sigma[m] * z
        e_source, e_target = (predict(x, m, times[m], name) for name in ("source", "target"))
        differences.append((e_target - e_source).abs().mean((0, 1)))
        difference = torch.stack(differences).mean(0) * region
        clip = request.mask_thresholding_ratio * difference[region].mean()
        heat = difference.clamp(max=clip) / clip if clip != 0 else torch.zeros_like(difference)
        before, mask = mask, found_mask(heat, region, request)
        if request.mask_tolerance and len(differences) > 1:
            changed = (before != mask).sum() / max(1, int((before | mask).sum()))
            if changed <= request.mask_tolerance:
                break
    if user_mask is not None:
        heat, mask = user_mask, (user_mask > 0) & region

    # Step 2: encode without text; every row is held for `inversion_stride` steps
    d = max(1, round(schedule.steps * request.strength))
    trajectory = [x0]
    for i in range(d):
        if i % request.inversion_stride == 0:
            above = min(i + request.inversion_stride, schedule.steps)
            eps = predict(trajectory[i], i, times[above], "empty")
        trajectory.append(step(trajectory[i], eps, i, i + 1))

    # Step 3: decode under the mask
    y = trajectory[d]
    low, high = request.guidance_interval
    for i in range(d, 0, -1):
        g = request.guidance_scale
        if not low < i / schedule.steps <= high:
            eps = predict(y, i, times[i], "target")
        elif model.embeds_guidance:
            eps = predict(y, i, times[i], "target", g)
        else:
            e_negative, e_target = (predict(y, i, times[i], n) for n in ("negative", "target"))
            eps = e_negative + g * (e_target - e_negative)
        free = mask if user_mask is None else mask & (user_mask * d >= i)
        y = torch.where(free, step(y, eps, i, i - 1), trajectory[i - 1])
    return Reference(x0, heat, mask, trajectory, y, model.decode(y))


def noise_of(schedule: Schedule, x: Tensor, out: Tensor, i: int) -> Tensor:
    """The noise in x at level i, from the network's output of any parameterization."""
    alpha, sigma = schedule.alphas, schedule.sigmas
    if schedule.prediction_type == "v_prediction":
        return alpha[i] * out + sigma[i] * x
    if schedule.prediction_type == "flow":
        return x + (1 - sigma[i]) * out
    if schedule.prediction_type == "sample":
        i = i if sigma[i] > 0 else i + 1
        return (x - alpha[i] * out) / sigma[i]
    return out
