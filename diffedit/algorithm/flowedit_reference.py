"""FlowEdit with DiffEdit's mask as plain PyTorch loops: the reference for `algorithm.flowedit`.

Written from algorithm 1 of the paper (arXiv 2412.08629), one example at a time, in fp32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffedit.algorithm.reference_models import ReferenceModel
from diffedit.algorithm.reference_setup import Reference, TextIds, find_masks, set_up
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
) -> Reference:
    """Edit `image`, float32 [1, 3, H, W] in [-1, 1], with the options of a resolved `request`.

    `ids` are "source", "target" and "negative"; `region` and `user_mask` are bool [h, w].
    """
    setup = set_up(model, schedule, request, image, ids)
    sigma, x0, g = schedule.sigmas, setup.x0, request

    def velocity(x: Tensor, i: int, name: str, guidance: float) -> Tensor:
        """eps - x_0 of x at level i under a text, guided away from the negative text."""
        t = schedule.timesteps[i]
        if model.embeds_guidance:
            return setup.predict(x, t, name, guidance)
        negative, positive = (setup.predict(x, t, n) for n in ("negative", name))
        return negative + guidance * (positive - negative)

    if user_mask is None:
        ((heat, mask),) = find_masks(setup, region)
    else:
        heat, mask = torch.zeros(region.shape), user_mask

    # Algorithm 1, inside the mask
    z_edit = x0
    for i in range(g.n_max, g.n_min, -1):
        total = torch.zeros_like(x0)
        for z in setup.draw(g.n_avg):
            x_source = (1 - sigma[i]) * x0 + sigma[i] * z
            x_target = z_edit + x_source - x0
            v_target = velocity(x_target, i, "target", g.guidance_scale)
            total += v_target - velocity(x_source, i, "source", g.source_guidance_scale)
        z_edit = torch.where(mask, z_edit + (sigma[i - 1] - sigma[i]) * total / g.n_avg, x0)

    # Its last n_min levels: ordinary steps under the target's text
    if g.n_min:
        (z,) = setup.draw(1)
        x = z_edit + ((1 - sigma[g.n_min]) * x0 + sigma[g.n_min] * z) - x0
        for i in range(g.n_min, 0, -1):
            x = x + (sigma[i - 1] - sigma[i]) * velocity(x, i, "target", g.guidance_scale)
            x = torch.where(mask, x, (1 - sigma[i - 1]) * x0 + sigma[i - 1] * z)
        z_edit = x
    return Reference(x0, heat, mask, z_edit, model.decode(z_edit))
