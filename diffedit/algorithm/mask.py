"""Step 1's arithmetic: noise differences -> heatmap -> mask. Pure functions of tensors.

Section 3.2 of the paper: average the differences over n noises, remove extreme values, rescale to
[0, 1], binarise at 0.5. Statistics never look beyond one image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

THRESHOLD = 0.5


def difference_map(target: Sequence[Tensor], source: Sequence[Tensor]) -> Tensor:
    """Mean over n noises and C channels of |eps_Q - eps_R|: n pairs of [C, h, w] -> [h, w]."""
    return (torch.stack([*target]) - torch.stack([*source])).float().abs().mean((0, 1))


def heatmap(difference: Tensor, region: Tensor, clip_ratio: float) -> Tensor:
    """Clip at `clip_ratio` times this image's own mean and divide by that: [h, w] in [0, 1].

    `region` is true where a cell shows the photograph; the rest takes no part and is 0. A zero
    difference gives a zero heatmap; one that is not finite stays so.
    """
    difference = torch.where(region, difference, 0.0)
    clip = clip_ratio * difference.sum() / region.sum()
    return torch.where(clip == 0, torch.zeros_like(difference), difference.minimum(clip) / clip)


def binarise(heat: Tensor, region: Tensor, dilation: int = 0) -> Tensor:
    """heatmap > 0.5, grown by `dilation` latent pixels each way, inside `region`: bool [h, w]."""
    mask = heat > THRESHOLD
    if dilation:
        grown = F.max_pool2d(mask[None].float(), 2 * dilation + 1, stride=1, padding=dilation)
        mask = grown[0] > 0
    return mask & region
