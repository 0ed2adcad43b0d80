"""The same edit as plain PyTorch loops over the checkpoint's own modules: the oracle.

No rows, no batcher, no caches, no shared step function. The formulas are written out as in the
paper, one example at a time, in fp32. Every faster way is tested against it, end to end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

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
        heat: float32 [h, w] in [0, 1]; of several edits the maximum.
        mask: bool [h, w]; of several edits, the cells of any.
        trajectory: x_0 to x_d, each float32 [1, C, h, w].
        latents: y_0, float32 [1, C, h, w].
        image: float32 [1, 3, H, W] in [-1, 1].
        masks: bool [h, w] of each edit.
    """

    x0: Tensor
    heat: Tensor
    mask: Tensor
    trajectory: list[Tensor]
    latents: Tensor
    image: Tensor
    masks: list[Tensor]


@torch.inference_mode()
def edit(
    model: ReferenceModel,
    schedule: Schedule,
    request: EditRequest,
    image: Tensor,
    ids: Mapping[str, Sequence[Tensor]],
    region: Tensor,
    user_mask: Tensor | None = None,
    pairs: Sequence[tuple[str, str]] = (("source", "target"),),
) -> Reference:
    """Edit `image`, float32 [1, 3, H, W] in [-1, 1], with the options of `request`.

    `ids` are "source", "target", "negative" and "empty", each one int64 [1, T] per text encoder;
    `region` is bool [h, w], the latent cells that show the photograph. `user_mask`, float32 [h, w]
    in [0, 1], replaces the computed mask; a cell of value v takes the last v d steps. `pairs` names
    the two texts of each of several edits.
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
    differences: dict[tuple[str, str], list[Tensor]] = {pair: [] for pair in pairs}
    found = [(torch.zeros(0), torch.zeros_like(region)) for _ in pairs]
    for z in torch.randn((request.num_maps_per_mask, *x0.shape[1:]), generator=generator):
        x = alpha[m] * x0 + sigma[m] * z
        for pair, maps in differences.items():
            e_source, e_target = (predict(x, m, times[m], name) for name in pair)
            maps.append((e_target - e_source).abs().mean((0, 1)))
        before = found
        found = [heat_and_mask(differences[pair], region, request) for pair in pairs]
        changes = [changed(old, new) for (_, old), (_, new) in zip(before, found, strict=True)]
        several = len(differences[pairs[0]]) > 1
        if request.mask_tolerance and several and max(changes) <= request.mask_tolerance:
            break
    if user_mask is not None:
        found = [(user_mask, (user_mask > 0) & region)]
    masks = apart([mask for _, mask in found], [core(one, region, request) for one in found])
    heat = torch.stack([heat for heat, _ in found]).amax(0)
    mask = torch.stack(masks).any(0)

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
        eps = torch.zeros_like(y)
        for cells, (_, target) in zip(masks, pairs, strict=True):
            if not low < i / schedule.steps <= high:
                own = predict(y, i, times[i], target)
            elif model.embeds_guidance:
                own = predict(y, i, times[i], target, g)
            else:
                e_negative, e_target = (predict(y, i, times[i], n) for n in ("negative", target))
                own = e_negative + g * (e_target - e_negative)
            eps = torch.where(cells, own, eps)
        free = mask if user_mask is None else mask & (user_mask * d >= i)
        y = torch.where(free, step(y, eps, i, i - 1), trajectory[i - 1])
    return Reference(x0, heat, mask, trajectory, y, model.decode(y), masks)


def heat_and_mask(
    differences: Sequence[Tensor], region: Tensor, request: EditRequest
) -> tuple[Tensor, Tensor]:
    """Average the maps of all noises, clip and rescale them, and threshold."""
    difference = torch.stack([*differences]).mean(0) * region
    clip = request.mask_thresholding_ratio * difference[region].mean()
    heat = difference.clamp(max=clip) / clip if clip != 0 else torch.zeros_like(difference)
    return heat, found_mask(heat, region, request)


def core(found: tuple[Tensor, Tensor], region: Tensor, request: EditRequest) -> Tensor:
    """The mask of a heatmap without the margin that "edges" adds."""
    cleaning = "clean" if request.mask_cleaning == "edges" else request.mask_cleaning
    return found_mask(found[0], region, replace(request, mask_cleaning=cleaning)) & found[1]


def apart(masks: Sequence[Tensor], cores: Sequence[Tensor]) -> list[Tensor]:
    """Each cell for the first edit whose core has it, or else for the first whose mask has it."""
    owners = torch.full(masks[0].shape, -1)
    for kind in (cores, masks):
        for number, cells in enumerate(kind):
            owners[(owners < 0) & cells] = number
    return [owners == number for number in range(len(masks))]


def changed(before: Tensor, after: Tensor) -> float:
    """The cells in which two masks differ, as a share of those in either."""
    return float((before != after).sum() / max(1, int((before | after).sum())))


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
