"""ChordEdit with DiffEdit's mask as plain PyTorch loops: the oracle of `algorithm.chordedit`.

Written from the algorithm of the paper (arXiv 2602.19083), one example at a time, in fp32. Its
noise levels are fractions of the schedule.
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
class ChordEditReference:
    """Every intermediate result.

    Attributes:
        x0: the encoded photograph, float32 [1, C, h, w].
        field: float32 [1, C, h, w].
        heat: float32 [h, w] in [0, 1].
        mask: bool [h, w].
        latents: the edited latent, float32 [1, C, h, w].
        image: float32 [1, 3, H, W] in [-1, 1].
    """

    x0: Tensor
    field: Tensor
    heat: Tensor
    mask: Tensor
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
) -> ChordEditReference:
    """Edit `image`, float32 [1, 3, H, W] in [-1, 1], with the options of a resolved `request`.

    `ids` are "source", "target" and "negative", each one int64 [1, T] per text encoder; `region` is
    bool [h, w].
    """
    alpha, sigma, times = schedule.alphas, schedule.sigmas, schedule.timesteps
    text = {name: model.embed(tokens) for name, tokens in ids.items()}
    generator = torch.Generator("cpu").manual_seed(request.seed)

    def predict(x: Tensor, i: int, name: str) -> tuple[Tensor, Tensor]:
        """The clean picture and the noise in x at level i under a text."""
        out = model.predict(x, torch.tensor([times[i]]), text[name], request.guidance_scale)
        if schedule.prediction_type == "flow":
            return x - sigma[i] * out, x + (1 - sigma[i]) * out
        if schedule.prediction_type == "v_prediction":
            return alpha[i] * x - sigma[i] * out, sigma[i] * x + alpha[i] * out
        return (x - sigma[i] * out) / alpha[i], out

    x0 = model.encode(image)
    noises = torch.randn((request.num_maps_per_mask, *x0.shape[1:]), generator=generator)

    # The field: the weighted mean of R(t) and R(t - delta)
    t, delta = request.strength, 0.15
    residuals, differences = {}, []
    for level in (t, t - delta):
        i = max(1, round(schedule.steps * level))
        total = torch.zeros_like(x0)
        for z in noises:
            x = alpha[i] * x0 + sigma[i] * z
            (source, e_source), (target, e_target) = (
                predict(x, i, n) for n in ("source", "target")
            )
            total += target - source
            differences.append((e_target - e_source).abs().mean((0, 1)))
        residuals[level] = total / len(noises)
    field = (t * residuals[t - delta] + delta * residuals[t]) / (t + delta)

    # DiffEdit's mask from the same predictions
    mean = torch.stack(differences).mean(0) * region
    clip = request.mask_thresholding_ratio * mean[region].mean()
    heat = mean.clamp(max=clip) / clip
    mask = found_mask(heat, region, request)

    # One step, and the refining rows
    x = torch.where(mask, x0 + request.step_scale * field, x0)
    for level in {0: (), 1: (0.3,), 2: (0.5, 0.3)}[request.refining_rows]:
        i = max(1, round(schedule.steps * level))
        noisy = alpha[i] * x + sigma[i] * noises[0]
        clean, _ = predict(noisy, i, "target")
        if not model.embeds_guidance:
            negative, _ = predict(noisy, i, "negative")
            clean = negative + request.guidance_scale * (clean - negative)
        x = torch.where(mask, clean, x0)
    return ChordEditReference(x0, field, heat, mask, x, model.decode(x))
