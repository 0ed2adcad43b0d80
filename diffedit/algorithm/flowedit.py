"""FlowEdit: edit with a rectified flow model without encoding the photograph first.

Kulikov, Kleiner, Huberman-Spiegelglas, Michaeli: "FlowEdit: Inversion-Free Text-Based Editing Using
Pre-Trained Flow Models", ICCV 2025, arXiv 2412.08629, algorithm 1. The paper edits the whole
picture. Here DiffEdit's mask finds the region first: outside it the path stays at the photograph,
so the result's latent equals x_0 there. With a mask that is white everywhere this is the paper's
method. The networks predict eps - x_0; other predictions are refused before a flow begins.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from diffedit.algorithm import edit as stages
from diffedit.algorithm.cache import Caches, Conditioning, TextIds, Texts
from diffedit.algorithm.find_mask import Noise, check_masks, find_masks
from diffedit.algorithm.inputs import EditInputs, EditOutputs
from diffedit.algorithm.plan import EditPlan
from diffedit.algorithm.schedule import timestep_tensors
from engine.rows import Flow, Row


@dataclass(frozen=True)
class Branch:
    """How the velocity under one text is predicted: that of the source, or of the target.

    Attributes:
        network: the denoiser.
        texts: the conditioning of the negative text and of the text, or of the text only.
        scale: scale of classifier-free guidance; used with two texts.
        request_inputs: the denoiser's inputs after the conditioning.
    """

    network: str
    texts: tuple[Conditioning, ...]
    scale: float
    request_inputs: tuple[Tensor, ...]

    def rows(self, x: Tensor, t: Tensor) -> list[Row]:
        """The rows of one latent, float32 [C, h, w], at timestep `t`."""
        return [Row(self.network, (x, t, *text, *self.request_inputs)) for text in self.texts]

    def velocity(self, answers: Iterator[Tensor]) -> Tensor:
        """eps - x_0 with guidance, from the next answers to `rows`."""
        first = next(answers)
        return first if len(self.texts) == 1 else first + self.scale * (next(answers) - first)


def edit(inputs: EditInputs, plan: EditPlan, caches: Caches) -> Flow[EditOutputs]:
    """The whole edit: the mask, then the direct path from the photograph to the result.

    `plan` is `EditPlan.for_edit` of a request with method "flowedit". At the published options of
    Stable Diffusion 3 the path takes 33 calls of 4 rows, in addition to the rows of the mask.
    """
    nets = inputs.networks
    text = yield from stages.embed(inputs, plan, caches)
    trajectory = yield from stages.start_trajectory(inputs, plan, caches)
    x0 = trajectory[0]
    noise = Noise(inputs.request.seed, x0)

    inputs.on_stage("mask")
    ((heat, mask),) = yield from find_masks(inputs, plan, x0, noise, text)
    (filled,) = check_masks(inputs, text, x0, [(heat, mask)])  # the first read of the device
    caches.keep(plan.trajectory_key(inputs.image_key), trajectory[:1], text)
    if not filled:
        image = None if inputs.request.composite else (yield [Row(nets.image_decoder, (x0,))])[0]
        return EditOutputs(x0, heat, mask, image)

    found = EditOutputs(x0, heat, mask, None)
    focused = yield from stages.in_window(edit, inputs, plan, caches, found)
    if focused is not None:
        return focused

    inputs.on_stage("decode")
    source, target = branches(inputs, text)
    z = yield from direct_path(inputs, plan, x0, mask, noise, (source, target))
    if plan.lowest:
        z = yield from last_levels(inputs, plan, x0, mask, noise, z, target)
    (image,) = yield [Row(nets.image_decoder, (z,))]
    results = [(nets.denoiser, "decode", z), (nets.image_decoder, "decode", image)]
    stages.require_finite(results)  # the second read
    return EditOutputs(z, heat, mask, image)


def branches(inputs: EditInputs, text: Texts) -> tuple[Branch, Branch]:
    """The source's and the target's branch; both are guided away from the negative text."""
    request = inputs.request

    def branch(ids: TextIds, scale: float, told: tuple[Tensor, ...]) -> Branch:
        guided = scale != 1 and not inputs.embeds_guidance
        texts = (text[inputs.negative], text[ids]) if guided else (text[ids],)
        return Branch(inputs.networks.denoiser, texts, scale, told)

    return (
        branch(inputs.source, request.source_guidance_scale, inputs.source_guided),
        branch(inputs.target, request.guidance_scale, inputs.guided),
    )


def direct_path(
    inputs: EditInputs,
    plan: EditPlan,
    x0: Tensor,
    mask: Tensor,
    noise: Noise,
    pair: tuple[Branch, Branch],
) -> Flow[Tensor]:
    """Algorithm 1 from level n_max (`plan.depth`) down to n_min (`plan.lowest`).

    z begins as x_0. At level i the photograph is noised with n_avg fresh noises to x_src, and z
    with the same noise to x_tar = z + x_src - x_0. The mean difference of their velocities moves z
    to level i - 1. All rows of a level are one yield.
    """
    schedule, sigmas = plan.schedule, plan.schedule.sigmas
    times = timestep_tensors(schedule, x0.device)
    source, target = pair
    z = x0
    for i in range(plan.depth, plan.lowest, -1):
        noisy = schedule.noise(x0, noise.draw(inputs.request.n_avg), i).unbind(0)
        rows = [
            row
            for x in noisy
            for row in (*source.rows(x, times[i]), *target.rows(z + x - x0, times[i]))
        ]
        answers = iter((yield rows))
        v = [(source.velocity(answers), target.velocity(answers)) for _ in noisy]
        difference = torch.stack([v_tar - v_src for v_src, v_tar in v]).mean(0)
        if inputs.on_preview is not None:
            inputs.on_preview(torch.where(mask, z - sigmas[i] * difference, x0), x0)
        z = torch.where(mask, z + (sigmas[i - 1] - sigmas[i]) * difference, x0)
    return z


def last_levels(
    inputs: EditInputs,
    plan: EditPlan,
    x0: Tensor,
    mask: Tensor,
    noise: Noise,
    z: Tensor,
    target: Branch,
) -> Flow[Tensor]:
    """The rest of algorithm 1: from level n_min down to 0 by ordinary steps under the target.

    One noise takes z to level n_min. Outside the mask the latent is the photograph with that noise
    at the same level, so it ends as x_0.
    """
    schedule, one = plan.schedule, noise.draw()
    times = timestep_tensors(schedule, x0.device)
    x = z + schedule.noise(x0, one, plan.lowest) - x0
    for i in range(plan.lowest, 0, -1):
        velocity = target.velocity(iter((yield target.rows(x, times[i]))))
        clean, eps = schedule.split(velocity, x, i)
        if inputs.on_preview is not None:
            inputs.on_preview(torch.where(mask, clean, x0), x0)
        below = schedule.noise(x0, one, i - 1) if i > 1 else x0
        x = torch.where(mask, schedule.noise(clean, eps, i - 1), below)
    return x
