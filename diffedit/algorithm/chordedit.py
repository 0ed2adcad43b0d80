"""ChordEdit (preset "instant"): an edit in one step, with DiffEdit's mask, in 4 to 8 rows.

Lu, Chen, Guo, Li, Wang, Shi: "ChordEdit: One-Step Low-Energy Transport for Image Editing", CVPR
2026, arXiv 2602.19083. The photograph is noised to two levels with the same noise, and the clean
picture is predicted at each level under the source and the target text: 4 rows in one call. The
weighted mean of the two differences is the edit's field; it is added once. The mask is computed
from the same field, so it needs no extra rows; outside the mask the latent stays x_0. A refining
row adds a little noise to the result and predicts the clean picture under the target text. The
method works best with a distilled model such as SD-Turbo, which predicts sharp pictures from
strong noise.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffedit.algorithm import edit as stages
from diffedit.algorithm.cache import Caches, Texts
from diffedit.algorithm.find_mask import Noise, check_masks, mask_of
from diffedit.algorithm.inputs import EditInputs, EditOutputs
from diffedit.algorithm.plan import EditPlan
from diffedit.algorithm.schedule import timestep_tensors
from diffedit.chordedit_options import WINDOW
from engine.rows import Flow, Row


def edit(inputs: EditInputs, plan: EditPlan, caches: Caches) -> Flow[EditOutputs]:
    """The whole edit. `plan` is `EditPlan.for_edit` of a request with method "chordedit"."""
    nets = inputs.networks
    text = yield from stages.embed(inputs, plan, caches)
    trajectory = yield from stages.start_trajectory(inputs, plan, caches)
    x0 = trajectory[0]
    noises = draw_noises(inputs, x0)

    inputs.on_stage("mask")
    field, heat, mask = yield from estimate_field(inputs, plan, x0, noises, text)
    (filled,) = check_masks(inputs, text, x0, [(heat, mask)])  # the first read of the device
    caches.keep(plan.trajectory_key(inputs.image_key), trajectory[:1], text)
    if not filled:
        image = None if inputs.request.composite else (yield [Row(nets.image_decoder, (x0,))])[0]
        return EditOutputs(x0, heat, mask, image)

    inputs.on_stage("decode")
    x = torch.where(mask, x0 + inputs.request.step_scale * field, x0)
    x = yield from refine(inputs, plan, x, x0, mask, noises[0], text)
    (image,) = yield [Row(nets.image_decoder, (x,))]
    results = [(nets.denoiser, "decode", x), (nets.image_decoder, "decode", image)]
    stages.require_finite(results)  # the second read
    return EditOutputs(x, heat, mask, image)


def mask_only(inputs: EditInputs, plan: EditPlan, caches: Caches) -> Flow[EditOutputs]:
    """The mask of the same edit: `EditOutputs` with x_0 as its latents and no image.

    `plan` is `EditPlan.for_mask` of the request.
    """
    text = yield from stages.embed(inputs, plan, caches)
    trajectory = yield from stages.start_trajectory(inputs, plan, caches)
    x0 = trajectory[0]
    inputs.on_stage("mask")
    noises = draw_noises(inputs, x0)
    _, heat, mask = yield from estimate_field(inputs, plan, x0, noises, text)
    check_masks(inputs, text, x0, [(heat, mask)])
    caches.keep(plan.trajectory_key(inputs.image_key), trajectory[:1], text)
    return EditOutputs(x0, heat, mask, None)


def draw_noises(inputs: EditInputs, x0: Tensor) -> Tensor:
    """Draw the noises that the field is averaged over: float32 [n, C, h, w]; the paper's n is 1."""
    return Noise(inputs.request.seed, x0).draw(inputs.request.num_maps_per_mask)


def estimate_field(
    inputs: EditInputs, plan: EditPlan, x0: Tensor, noises: Tensor, text: Texts
) -> Flow[tuple[Tensor, Tensor, Tensor]]:
    """The paper's chord control field: (field [C, h, w], heatmap, mask [h, w]).

    R(t) is the mean over the noises of the difference of the predicted clean pictures at level t.
    With t and t - delta as fractions of the schedule, the field is the weighted mean
    (t R(t - delta) + delta R(t)) / (t + delta). 4 rows a noise, all in one yield.
    """
    schedule, net, nothing = plan.schedule, inputs.networks.denoiser, torch.zeros_like(x0)
    if inputs.source == inputs.target:
        return nothing, nothing[0], torch.zeros_like(inputs.region)
    times = timestep_tensors(schedule, x0.device)
    pair = text[inputs.source], text[inputs.target]
    points = [(i, schedule.noise(x0, z, i)) for i in plan.field_levels for z in noises]
    out = yield [Row(net, (x, times[i], *c, *inputs.guided)) for i, x in points for c in pair]
    splits = [schedule.split(p, points[k // 2][1], points[k // 2][0]) for k, p in enumerate(out)]
    clean = torch.stack([x for x, _ in splits]).view(2, len(noises), 2, *x0.shape)
    upper, lower = (clean[:, :, 1] - clean[:, :, 0]).mean(1)
    t = inputs.request.strength
    field = (t * lower + WINDOW * upper) / (t + WINDOW)
    if inputs.user_mask is not None:
        return field, inputs.user_mask.float(), inputs.user_mask & inputs.region
    return field, *mask_of(inputs, *([eps for _, eps in splits[k::2]] for k in (0, 1)))


def refine(
    inputs: EditInputs,
    plan: EditPlan,
    x: Tensor,
    x0: Tensor,
    mask: Tensor,
    noise: Tensor,
    text: Texts,
) -> Flow[Tensor]:
    """The paper's proximal refinement, once for each of the plan's refining levels: add the same
    noise to the result, and predict the clean picture under the target text."""
    schedule, request = plan.schedule, inputs.request
    times = timestep_tensors(schedule, x0.device)
    names = (inputs.negative, inputs.target) if plan.guided else (inputs.target,)
    for i in plan.refining_levels:
        noisy = schedule.noise(x, noise, i)
        told = [(noisy, times[i], *text[name], *inputs.guided) for name in names]
        out = yield [Row(inputs.networks.denoiser, row) for row in told]
        prediction = out[0] + request.guidance_scale * (out[-1] - out[0]) if plan.guided else out[0]
        x = torch.where(mask, schedule.split(prediction, noisy, i)[0], x0)
        if inputs.on_preview is not None:
            inputs.on_preview(x, x0)
    return x
