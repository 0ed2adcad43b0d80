"""Step 1 of the paper: find where the predictions under the two texts differ.

Generators that yield network rows. One request can have several edits, each with its own mask. They
share the noises, and the rows of common texts: K edits with one source text take n + K n rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diffedit.algorithm import mask as masks
from diffedit.algorithm.cache import TextIds, Texts
from diffedit.algorithm.inputs import EditInputs, EditOutputs
from diffedit.algorithm.plan import EditPlan
from diffedit.algorithm.schedule import timestep_tensors
from diffedit.algorithm.transfer import to_device
from engine.errors import NonFiniteError
from engine.rows import Flow, Row

Found = tuple[Tensor, Tensor]
"""(heatmap, mask) of one edit: float32 and bool [h, w]."""
Pair = tuple[TextIds, TextIds]
"""(source, target)."""


class Noise:
    """The Gaussian noise of one request, drawn on the CPU so that every device gets the same."""

    def __init__(self, seed: int, like: Tensor) -> None:
        self._generator = torch.Generator("cpu").manual_seed(seed)
        self._like = like

    def draw(self, *count: int) -> Tensor:
        """A standard normal of shape [*count, C, h, w] on the latent's device."""
        noise = torch.randn((*count, *self._like.shape), generator=self._generator)
        return to_device(noise, self._like.device)


def find_masks(
    inputs: EditInputs, plan: EditPlan, x0: Tensor, noise: Noise, text: Texts
) -> Flow[list[Found]]:
    """Return the mask of every edit: the user's, an empty one for equal texts, or the computed one.

    The masks do not overlap; see `disjoint`.
    """
    if inputs.user_mask is not None:
        levels = inputs.user_mask if inputs.user_levels is None else inputs.user_levels
        return [(levels.float(), inputs.user_mask & inputs.region)]
    pairs = [pair for pair in dict.fromkeys(inputs.pairs) if pair[0] != pair[1]]
    estimated = (yield from estimate_masks(inputs, plan, x0, noise, text, pairs)) if pairs else {}
    nothing = torch.zeros_like(x0[0]), torch.zeros_like(inputs.region)
    found = [estimated.get(pair, nothing) for pair in inputs.pairs]
    return disjoint(found, [core_of(inputs, one) for one in found]) if inputs.more else found


def estimate_masks(
    inputs: EditInputs,
    plan: EditPlan,
    x0: Tensor,
    noise: Noise,
    text: Texts,
    pairs: Sequence[Pair],
) -> Flow[dict[Pair, Found]]:
    """Section 3.2 "computing the editing mask".

    Noise x_0 to the mask level with n noises, predict the noise under both texts (2n rows in one
    yield), and average the differences. Guidance is not used: it would only scale the differences,
    and the mask does not depend on their scale.

    With a tolerance, n is a maximum: the noises are evaluated in several yields, until a further
    noise changes no mask by more than the tolerance.
    """
    request, schedule, m = inputs.request, plan.schedule, plan.mask_level
    t = timestep_tensors(schedule, x0.device)[m]
    noisy = schedule.noise(x0, noise.draw(request.num_maps_per_mask), m).unbind(0)
    net, last = inputs.networks.denoiser, inputs.unguided
    predicted: dict[TextIds, list[Tensor]] = {ids: [] for pair in pairs for ids in pair}
    done = 0
    for count in plan.noises:
        new, done = noisy[done : done + count], done + count
        out = yield [Row(net, (x, t, *text[ids], *last)) for x in new for ids in predicted]
        answers = iter(out)
        for x in new:
            for eps in predicted.values():
                eps.append(schedule.split(next(answers), x, m)[1])
        if done < len(noisy) and _stable(inputs, predicted, pairs):
            break
    return {(r, q): mask_of(inputs, predicted[r], predicted[q]) for r, q in pairs}


def _stable(
    inputs: EditInputs, predicted: dict[TextIds, list[Tensor]], pairs: Sequence[Pair]
) -> bool:
    """Whether the last noise has changed no mask by more than the tolerance. One read."""
    changes = []
    for r, q in pairs:
        _, before = mask_of(inputs, predicted[r][:-1], predicted[q][:-1])
        _, after = mask_of(inputs, predicted[r], predicted[q])
        changes.append(masks.change(before, after))
    return bool(torch.stack(changes).max().item() <= inputs.request.mask_tolerance)


def mask_of(inputs: EditInputs, source: Sequence[Tensor], target: Sequence[Tensor]) -> Found:
    """(heatmap, mask) from the noises predicted under R and Q."""
    request, region = inputs.request, inputs.region
    difference = masks.difference_map(target, source)
    heat = masks.heatmap(difference, region, request.mask_thresholding_ratio)
    return heat, masks.shape(heat, region, masks.ShapeOptions.of(request)).edit


def core_of(inputs: EditInputs, found: Found) -> Tensor:
    """The mask without the margin that "edges" adds around it: bool [h, w]."""
    options = masks.ShapeOptions.of(inputs.request)
    return masks.shape(found[0], inputs.region, options).found & found[1]


def disjoint(found: Sequence[Found], cores: Sequence[Tensor]) -> list[Found]:
    """Return the same masks without overlap: a cell in several masks goes to the earliest edit.

    A cell in the margin of one mask and in the core of another goes to the other. `cores` are the
    masks without their margins.
    """
    in_any_core, separate = torch.stack([*cores]).any(0), []
    taken = torch.zeros_like(in_any_core)
    for (heat, mask), core in zip(found, cores, strict=True):
        own = (core | (mask & ~in_any_core)) & ~taken
        separate.append((heat, own))
        taken = taken | own
    return separate


def merged(found: Sequence[Found], x0: Tensor) -> EditOutputs:
    """The output of an edit that has only found its masks."""
    if len(found) == 1:
        return EditOutputs(x0, *found[0], None)
    heats, cells = (torch.stack(kind) for kind in zip(*found, strict=True))
    return EditOutputs(x0, heats.amax(0), cells.any(0), None, tuple(found))


def check_masks(inputs: EditInputs, text: Texts, x0: Tensor, found: Sequence[Found]) -> list[bool]:
    """Whether each mask has a cell. One read. Raises NonFiniteError if step 1 went wrong."""
    nets = inputs.networks
    checked = [(" or ".join(nets.text_encoders), tensor) for c in text.values() for tensor in c]
    checked += [(nets.image_encoder, x0), *((nets.denoiser, heat) for heat, _ in found)]
    flags = [tensor.isfinite().all() for _, tensor in checked]
    read = torch.stack([*flags, *(mask.any() for _, mask in found)]).tolist()
    for (network, _), is_finite in zip(checked, read, strict=False):
        if not is_finite:
            raise NonFiniteError(network, "mask")
    return read[len(checked) :]
