"""The arithmetic of step 1: noise differences -> heatmap -> mask. Pure functions of tensors.

Section 3.2 of the paper: average the differences over n noises, remove extreme values, rescale to
[0, 1], binarise at 0.5. The statistics are those of one image.
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
    """Clip at `clip_ratio` times the image's own mean and divide by the clip value.

    Args:
        difference: float32 [h, w].
        region: bool [h, w], true where a cell shows the photograph; other cells are ignored and
            become 0.

    Returns: float32 [h, w] in [0, 1]. A zero difference gives zeros; NaN stays NaN.
    """
    difference = torch.where(region, difference, 0.0)
    clip = clip_ratio * difference.sum() / region.sum()
    return torch.where(clip == 0, torch.zeros_like(difference), difference.minimum(clip) / clip)


def change(before: Tensor, after: Tensor) -> Tensor:
    """The cells in which two masks differ, as a share of those in either: float32 scalar."""
    return (before ^ after).sum() / (before | after).sum().clamp(min=1)


def binarise(heat: Tensor, region: Tensor, dilation: int = 0) -> Tensor:
    """heatmap > 0.5, dilated by `dilation` latent pixels, inside `region`: bool [h, w]."""
    mask = heat > THRESHOLD
    if dilation:
        grown = F.max_pool2d(mask[None].float(), 2 * dilation + 1, stride=1, padding=dilation)
        mask = grown[0] > 0
    return mask & region
