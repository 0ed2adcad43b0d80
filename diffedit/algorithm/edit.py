"""DiffEdit in the order of the paper: generators that yield the network rows they need.

A flow does not depend on the backend, the batch or files. It reads values from the device twice: to
check whether the mask is empty, and whether the result is finite. With `mask_tolerance` it also
reads whether the mask is stable, and with `mask_cleaning` the heatmap.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from diffedit.algorithm.cache import Caches, Conditioning, TextIds, Texts, Trajectory
from diffedit.algorithm.find_mask import Noise, check_masks, find_masks, merged
from diffedit.algorithm.inputs import EditInputs, EditOutputs
from diffedit.algorithm.plan import EditPlan
from diffedit.algorithm.schedule import Schedule, timestep_tensors
from diffedit.algorithm.transfer import to_device
from diffedit.request import MASKED_METHODS
from engine.errors import NonFiniteError
from engine.rows import Flow, Row

Background = Callable[[int], Tensor]
"""Level -> the latent outside the mask, float32 [C, h, w]."""


def edit(inputs: EditInputs, plan: EditPlan, caches: Caches) -> Flow[EditOutputs]:
    """The whole edit (section 3.2 and figure 2); `method` selects the paper's ablations.

    `plan` is `EditPlan.for_edit` of the request. Rows with the paper's settings: 20 for the mask,
    40 to encode, 80 to decode, one VAE encode and one VAE decode.
    """
    request, schedule, nets = inputs.request, plan.schedule, inputs.networks
    key = plan.trajectory_key(inputs.image_key)
    text = yield from embed(inputs, plan, caches)
    trajectory = yield from start_trajectory(inputs, plan, caches)
    x0 = trajectory[0]
    noise = Noise(request.seed, x0)

    inputs.on_stage("mask")
    if request.method in MASKED_METHODS:
        found = yield from find_masks(inputs, plan, x0, noise, text)
    else:
        found = [(inputs.region.float(), inputs.region)]
    filled = check_masks(inputs, text, x0, found)  # the first read of the device
    caches.keep(key, trajectory[:1], text)
    outputs = merged(found, x0)
    if not any(filled):
        image = None if request.composite else (yield [Row(nets.image_decoder, (x0,))])[0]
        return replace(outputs, image=image)

    focused = yield from in_window(edit, inputs, plan, caches, outputs)
    if focused is not None:
        return focused

    depth = plan.depth
    background: Background
    if plan.encodes:
        inputs.on_stage("encode")
        yield from invert(inputs, trajectory, text[inputs.empty], plan)
        start, background = trajectory[depth], trajectory.__getitem__
    else:
        start, background = schedule.noise(x0, noise.draw(), depth), _noised(x0, noise, schedule)

    inputs.on_stage("decode")
    edits = zip(found, inputs.pairs, filled, strict=True)
    parts = [(mask, target) for (_, mask), (_, target), some in edits if some]
    latents = yield from denoise(inputs, start, background, parts, text, plan)
    (image,) = yield [Row(nets.image_decoder, (latents,))]
    results = [(nets.denoiser, "encode", trajectory[depth])] if plan.encodes else []
    results.append((nets.denoiser, "decode", latents))
    results.append((nets.image_decoder, "decode", image))
    require_finite(results)  # the second read
    if plan.encodes:
        caches.keep(key, trajectory[: depth + 1])
    return replace(outputs, latents=latents, image=image)


def in_window(
    steps: Callable[[EditInputs, EditPlan, Caches], Flow[EditOutputs]],
    inputs: EditInputs,
    plan: EditPlan,
    caches: Caches,
    found: EditOutputs,
) -> Flow[EditOutputs | None]:
    """Focus: run the edit `steps` on a window around the found mask; None without a window."""
    window = inputs.focus(found.mask) if inputs.focus is not None else None
    if window is None:
        return None
    window = replace(window, focus=None, on_stage=inputs.on_stage, on_preview=inputs.on_preview)
    inside = yield from steps(window, plan, caches)
    return replace(found, latents=inside.latents, image=inside.image)


def mask_only(inputs: EditInputs, plan: EditPlan, caches: Caches) -> Flow[EditOutputs]:
    """Only step 1, the mask: `EditOutputs` with x_0 as its latents and no image.

    `plan` is `EditPlan.for_mask` of the request.
    """
    text = yield from embed(inputs, plan, caches)
    trajectory = yield from start_trajectory(inputs, plan, caches)
    x0 = trajectory[0]
    inputs.on_stage("mask")
    noise = Noise(inputs.request.seed, x0)
    found = yield from find_masks(inputs, plan, x0, noise, text)
    check_masks(inputs, text, x0, found)
    caches.keep(plan.trajectory_key(inputs.image_key), trajectory[:1], text)
    return merged(found, x0)


def encode_only(inputs: EditInputs, plan: EditPlan, caches: Caches) -> Flow[Tensor]:
    """Only step 2, the inversion: the trajectory, float32 [d + 1, C, h, w], x_0 first.

    `plan` is `EditPlan.for_inversion` of the request.
    """
    nets, depth = inputs.networks, plan.depth
    text = yield from embed(inputs, plan, caches)
    trajectory = yield from start_trajectory(inputs, plan, caches)
    inputs.on_stage("encode")
    empty = text[inputs.empty]
    yield from invert(inputs, trajectory, empty, plan)
    require_finite(
        [
            *((nets.text_encoders[0], "encode", tensor) for tensor in empty),
            (nets.image_encoder, "encode", trajectory[0]),
            (nets.denoiser, "encode", trajectory[depth]),
        ]
    )
    caches.keep(plan.trajectory_key(inputs.image_key), trajectory[: depth + 1], text)
    return torch.stack(trajectory[: depth + 1])


def embed(inputs: EditInputs, plan: EditPlan, caches: Caches) -> Flow[Texts]:
    """Embed each distinct text of the plan. All texts that are not cached share one yield."""
    networks, device = inputs.networks.text_encoders, inputs.image.device
    texts = [ids for name in plan.texts for ids in inputs.texts(name)]
    found = {ids: caches.conditioning.get(ids) for ids in texts}
    missing = [ids for ids, tensors in found.items() if not tensors]
    rows = [
        Row(network, (to_device(torch.tensor(text[n]), device),), key=text[n])
        for n, network in enumerate(networks)  # one after the other: encoders may be offloaded
        for text in missing
    ]
    answers = (yield rows) if rows else []
    for k, text in enumerate(missing):
        found[text] = inputs.condition(text, answers[k :: len(missing)])
    return {text: tensors for text, tensors in found.items() if tensors}


def start_trajectory(inputs: EditInputs, plan: EditPlan, caches: Caches) -> Flow[Trajectory]:
    """Return the image's trajectory, as far as other edits have extended it; at least [x_0]."""
    trajectory = caches.trajectory(plan.trajectory_key(inputs.image_key))
    if not trajectory:
        row = Row(inputs.networks.image_encoder, (inputs.image,), key=inputs.image_key)
        (x0,) = yield [row]
        if not trajectory:  # another running edit may have added it meanwhile
            trajectory.append(x0)
    return trajectory


def invert(
    inputs: EditInputs, trajectory: Trajectory, empty: Conditioning, plan: EditPlan
) -> Flow[None]:
    """Step 2, section 3.2 "encoding": steps upwards from x_0, unconditional, without guidance.

    The step to level i + 1 evaluates x_i at timestep t_{i+1}, the timestep that decoding uses for
    the step back. With a stride m, only every m-th level is evaluated, at timestep t_{i+m}, and its
    eps is used for the m steps above it (inversion step skipping, EEdit, arXiv 2503.10270). Steps
    with a constant eps keep the predicted x_0 constant. The timestep does not depend on the depth,
    so a shallow trajectory is the beginning of a deep one.

    Extends the trajectory until `trajectory[i]` = x_i, float32 [C, h, w], exists up to the plan's
    depth. The trajectory has at least x_0 at the start. Running edits of one image extend the same
    trajectory: they share rows, and the flow that resumes first takes the steps.
    """
    schedule, m = plan.schedule, plan.stride
    times = timestep_tensors(schedule, trajectory[0].device)
    while len(trajectory) <= plan.depth:
        i = (len(trajectory) - 1) // m * m
        above = min(i + m, schedule.steps)
        key: Hashable = (*plan.trajectory_key(inputs.image_key), i)
        told = (trajectory[i], times[above], *empty, *inputs.unguided)
        (out,) = yield [Row(inputs.networks.denoiser, told, key)]
        x0, eps = schedule.split(out, trajectory[i], i)
        for j in range(len(trajectory), min(above, plan.depth) + 1):
            trajectory.append(schedule.noise(x0, eps, j))


def denoise(
    inputs: EditInputs,
    y: Tensor,
    background: Background,
    parts: Sequence[tuple[Tensor, TextIds]],
    text: Texts,
    plan: EditPlan,
) -> Flow[Tensor]:
    """Step 3, section 3.2 "decoding with mask guidance": steps downwards under Q.

    After every step the background is restored from the trajectory *at the same level*, so the
    result equals x_0 outside the mask. Guided levels take two rows, one under the negative text,
    or one row where the denoiser takes the guidance scale as an input; other levels take one row
    without guidance (Kynkaanniemi et al. 2024, arXiv 2404.07724).

    `parts` has the mask and the target text of each edit. The negative row is shared by all, and
    each cell takes the prediction of its own edit.

    With a soft mask, a cell of value v is edited in the last v * d of the d steps (Differential
    Diffusion, arXiv 2306.00950).
    """
    schedule, g = plan.schedule, inputs.request.guidance_scale
    times = timestep_tensors(schedule, y.device)
    levels, net = inputs.user_levels, inputs.networks.denoiser
    targets = list(dict.fromkeys(target for _, target in parts))
    mask = torch.stack([mask for mask, _ in parts]).any(0)
    for i in range(plan.depth, 0, -1):
        guided = i in plan.guided
        asked = [inputs.negative, *targets] if guided and not inputs.embeds_guidance else targets
        last = inputs.guided if guided else inputs.unguided
        out = yield [Row(net, (y, times[i], *text[ids], *last)) for ids in asked]
        if len(out) > len(targets):
            out = [out[0] + g * (prediction - out[0]) for prediction in out[1:]]
        prediction = _by_cell(parts, dict(zip(targets, out, strict=True)))
        clean, eps = schedule.split(prediction, y, i)
        if inputs.on_preview is not None:
            inputs.on_preview(torch.where(mask, clean, background(0)), background(0))
        free = mask if levels is None else mask & (levels * plan.depth >= i)
        y = torch.where(free, schedule.noise(clean, eps, i - 1), background(i - 1))
    return y


def _by_cell(
    parts: Sequence[tuple[Tensor, TextIds]], predictions: Mapping[TextIds, Tensor]
) -> Tensor:
    """The prediction of each cell's own edit, [C, h, w]; outside all masks, of the first edit."""
    (_, first), *others = parts
    found = predictions[first]
    for mask, target in others:
        found = torch.where(mask, predictions[target], found)
    return found


def require_finite(results: Sequence[tuple[str, str, Tensor]]) -> None:
    """Raise NonFiniteError for the first (network, stage, tensor) that is not finite. One read."""
    flags = torch.stack([tensor.isfinite().all() for _, _, tensor in results]).tolist()
    for (network, stage, _), finite in zip(results, flags, strict=True):
        if not finite:
            raise NonFiniteError(network, stage)


def _noised(x0: Tensor, noise: Noise, schedule: Schedule) -> Background:
    """The background of "DiffEdit without encoding": x_0 with fresh noise at each level."""
    return lambda i: schedule.noise(x0, noise.draw(), i) if i else x0
