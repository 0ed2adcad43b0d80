"""The first steps of every reference: encode, draw noise, find the mask.

Plain formulas, one example at a time, in fp32. The only code that it shares with the flows is the
table of the schedule.
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

TextIds = Mapping[str, Sequence[Tensor]]
"""Name of a text -> int64 [1, T] for each text encoder."""


@dataclass(frozen=True)
class Reference:
    """Every intermediate result.

    Attributes:
        x0: the encoded photograph, float32 [1, C, h, w].
        heat: float32 [h, w] in [0, 1]; of several edits the maximum.
        mask: bool [h, w]; of several edits, the cells of any.
        latents: the edited latent, float32 [1, C, h, w].
        image: float32 [1, 3, H, W] in [-1, 1].
        trajectory: x_0 to x_d, each float32 [1, C, h, w]; empty for FlowEdit and ChordEdit.
        masks: bool [h, w] of each of several edits.
    """

    x0: Tensor
    heat: Tensor
    mask: Tensor
    latents: Tensor
    image: Tensor
    trajectory: tuple[Tensor, ...] = ()
    masks: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Setup:
    """One edit, encoded.

    Attributes:
        model, schedule, request: as given.
        text: name -> the embeddings of a text.
        x0: the encoded photograph, float32 [1, C, h, w].
        generator: the source of all noise.
    """

    model: ReferenceModel
    schedule: Schedule
    request: EditRequest
    text: Mapping[str, tuple[Tensor, ...]]
    x0: Tensor
    generator: torch.Generator

    def draw(self, count: int) -> Tensor:
        """Gaussian noise, float32 [count, C, h, w]."""
        return torch.randn((count, *self.x0.shape[1:]), generator=self.generator)

    def predict(self, x: Tensor, t: float, name: str, guidance: float = 1.0) -> Tensor:
        """The network's output for x at timestep t under a text."""
        return self.model.predict(x, torch.tensor([t]), self.text[name], guidance)


def set_up(
    model: ReferenceModel,
    schedule: Schedule,
    request: EditRequest,
    image: Tensor,
    ids: TextIds,
) -> Setup:
    """Encode the texts and the image, float32 [1, 3, H, W] in [-1, 1]."""
    text = {name: model.embed(tokens) for name, tokens in ids.items()}
    generator = torch.Generator("cpu").manual_seed(request.seed)
    return Setup(model, schedule, request, text, model.encode(image), generator)


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


def find_masks(
    setup: Setup, region: Tensor, pairs: Sequence[tuple[str, str]] = (("source", "target"),)
) -> list[tuple[Tensor, Tensor]]:
    """Step 1 of DiffEdit: (heatmap, mask) of each pair of texts."""
    schedule, request, x0 = setup.schedule, setup.request, setup.x0
    m = max(1, round(schedule.steps * request.mask_encode_strength))
    differences: dict[tuple[str, str], list[Tensor]] = {pair: [] for pair in pairs}
    found = [(torch.zeros(0), torch.zeros_like(region)) for _ in pairs]
    for z in setup.draw(request.num_maps_per_mask):
        x = schedule.alphas[m] * x0 + schedule.sigmas[m] * z
        for pair, maps in differences.items():
            e_source, e_target = (
                noise_of(schedule, x, setup.predict(x, schedule.timesteps[m], name), m)
                for name in pair
            )
            maps.append((e_target - e_source).abs().mean((0, 1)))
        before = found
        found = [heat_and_mask(differences[pair], region, request) for pair in pairs]
        changes = [changed(old, new) for (_, old), (_, new) in zip(before, found, strict=True)]
        several = len(differences[pairs[0]]) > 1
        if request.mask_tolerance and several and max(changes) <= request.mask_tolerance:
            break
    return found


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
    """Disjoint masks: a cell goes to the first edit that has it in its core, else in its mask."""
    owners = torch.full(masks[0].shape, -1)
    for kind in (cores, masks):
        for number, cells in enumerate(kind):
            owners[(owners < 0) & cells] = number
    return [owners == number for number in range(len(masks))]


def changed(before: Tensor, after: Tensor) -> float:
    """The cells in which two masks differ, as a share of those in either."""
    return float((before != after).sum() / max(1, int((before | after).sum())))
