"""FlowEdit with DiffEdit's mask as plain PyTorch loops: the oracle of `algorithm.flowedit`.

Written from algorithm 1 of the paper (arXiv 2412.08629), one example at a time, in fp32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffedit.algorithm.reference_models import ReferenceModel
from diffedit.algorithm.schedule import Schedule
from diffedit.request import EditRequest


@dataclass(frozen=True)
class FlowEditReference:
    """Every intermediate result.

    Attributes:
        x0: the encoded photograph, float32 [1, C, h, w].
        heat: float32 [h, w] in [0, 1].
        mask: bool [h, w].
        latents: the edited latent, float32 [1, C, h, w].
        image: float32 [1, 3, H, W] in [-1, 1].
    """

    x0: Tensor
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
    user_mask: Tensor | None = None,
) -> FlowEditReference:
    """Edit `image`, float32 [1, 3, H, W] in [-1, 1], with the options of a resolved `request`.

    `ids` are "source", "target" and "negative", each one int64 [1, T] per text encoder; `region`
    and `user_mask` are bool [h, w].
    """
    sigma, times, g = schedule.sigmas, schedule.timesteps, request
    text = {name: model.embed(tokens) for name, tokens in ids.items()}
    generator = torch.Generator("cpu").manual_seed(request.seed)

    def velocity(x: Tensor, i: int, name: str, guidance: float) -> Tensor:
        """eps - x_0 of x at level i under a text, guided away from the negative text."""
        t = torch.tensor([times[i]])
        if model.embeds_guidance:
            return model.predict(x, t, text[name], guidance)
        negative, positive = (model.predict(x, t, text[n], 1.0) for n in ("negative", name))
        return negative + guidance * (positive - negative)

    x0 = model.encode(image)

    # DiffEdit's mask: where do the two texts disagree?
    heat, mask = torch.zeros_like(region).float(), user_mask
    if mask is None:
        m = max(1, round(schedule.steps * request.mask_encode_strength))
        differences = []
        for z in torch.randn((request.num_maps_per_mask, *x0.shape[1:]), generator=generator):
            x = (1 - sigma[m]) * x0 + sigma[m] * z
            v_source, v_target = (velocity(x, m, name, 1.0) for name in ("source", "target"))
            difference = (1 - sigma[m]) * (v_target - v_source)  # of the predicted noises
            differences.append(difference.abs().mean((0, 1)))
        mean = torch.stack(differences).mean(0) * region
        clip = request.mask_thresholding_ratio * mean[region].mean()
        heat = mean.clamp(max=clip) / clip
        mask = heat > 0.5

    # Algorithm 1, inside the mask
    z_edit = x0
    for i in range(g.n_max, g.n_min, -1):
        total = torch.zeros_like(x0)
        for z in torch.randn((g.n_avg, *x0.shape[1:]), generator=generator):
            x_source = (1 - sigma[i]) * x0 + sigma[i] * z
            x_target = z_edit + x_source - x0
            v_target = velocity(x_target, i, "target", g.guidance_scale)
            total += v_target - velocity(x_source, i, "source", g.source_guidance_scale)
        z_edit = torch.where(mask, z_edit + (sigma[i - 1] - sigma[i]) * total / g.n_avg, x0)

    # Its last n_min levels: ordinary steps under the target's text
    if g.n_min:
        z = torch.randn(x0.shape[1:], generator=generator)
        x = z_edit + ((1 - sigma[g.n_min]) * x0 + sigma[g.n_min] * z) - x0
        for i in range(g.n_min, 0, -1):
            x = x + (sigma[i - 1] - sigma[i]) * velocity(x, i, "target", g.guidance_scale)
            x = torch.where(mask, x, (1 - sigma[i - 1]) * x0 + sigma[i - 1] * z)
        z_edit = x
    return FlowEditReference(x0, heat, mask, z_edit, model.decode(z_edit))
