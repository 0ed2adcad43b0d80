"""ChordEdit with DiffEdit's mask as plain PyTorch loops: the reference for `algorithm.chordedit`.

Written from the algorithm of the paper (arXiv 2602.19083), one example at a time, in fp32. Its
noise levels are fractions of the schedule.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffedit.algorithm.reference_models import ReferenceModel
from diffedit.algorithm.reference_setup import Reference, TextIds, heat_and_mask, noise_of, set_up
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
) -> Reference:
    """Edit `image`, float32 [1, 3, H, W] in [-1, 1], with the options of a resolved `request`.

    `ids` are "source", "target" and "negative"; `region` is bool [h, w].
    """
    setup = set_up(model, schedule, request, image, ids)
    alpha, sigma, x0 = schedule.alphas, schedule.sigmas, setup.x0

    def predict(x: Tensor, i: int, name: str) -> tuple[Tensor, Tensor]:
        """The clean picture and the noise in x at level i under a text."""
        out = setup.predict(x, schedule.timesteps[i], name, request.guidance_scale)
        eps = noise_of(schedule, x, out, i)
        if schedule.prediction_type == "flow":
            return x - sigma[i] * out, eps
        return (x - sigma[i] * eps) / alpha[i], eps

    noises = setup.draw(request.num_maps_per_mask)

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
    heat, mask = heat_and_mask(differences, region, request)

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
    return Reference(x0, heat, mask, x, model.decode(x))
