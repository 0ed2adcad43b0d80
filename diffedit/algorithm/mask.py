"""The arithmetic of step 1: noise differences -> heatmap -> mask. Pure functions of tensors.

Section 3.2 of the paper: average the differences over n noises, remove extreme values, rescale to
[0, 1], binarise at 0.5. The statistics are those of one image. `shape` makes the masks of an edit
from a heatmap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from diffedit.algorithm import mask_cleaning
from diffedit.algorithm.transfer import to_device
from diffedit.request import EditRequest, MaskCleaning

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

    Examples:
        >>> difference = torch.tensor([[1.0, 1.0], [1.0, 5.0]])  # the mean is 2
        >>> heatmap(difference, torch.ones(2, 2, dtype=torch.bool), clip_ratio=1.0)
        tensor([[0.5000, 0.5000],
                [0.5000, 1.0000]])
    """
    difference = torch.where(region, difference, 0.0)
    clip = clip_ratio * difference.sum() / region.sum()
    return torch.where(clip == 0, torch.zeros_like(difference), difference.minimum(clip) / clip)


def change(before: Tensor, after: Tensor) -> Tensor:
    """The cells in which two masks differ, as a share of those in either: float32 scalar."""
    return (before ^ after).sum() / (before | after).sum().clamp(min=1)


def binarise(
    heat: Tensor, region: Tensor, dilation: int = 0, threshold: float = THRESHOLD
) -> Tensor:
    """heatmap > threshold, dilated by `dilation` latent pixels, inside `region`: bool [h, w]."""
    return grown(heat > threshold, dilation) & region


def grown(mask: Tensor, cells: int) -> Tensor:
    """The mask enlarged by some cells to each side and diagonally: bool [h, w]."""
    if not cells:
        return mask
    return F.max_pool2d(mask[None].float(), 2 * cells + 1, stride=1, padding=cells)[0] > 0


@dataclass(frozen=True)
class ShapeOptions:
    """How a heatmap becomes a mask; all except `invert` are options of an edit.

    Attributes:
        threshold: cells with a higher value are edited.
        dilation: cells by which the mask is enlarged.
        cleaning: see `EditRequest.mask_cleaning`.
        blur: standard deviation of the blur in cells; with `cleaning`.
        invert: edit the rest of the photograph.
    """

    threshold: float = THRESHOLD
    dilation: int = 0
    cleaning: MaskCleaning = "none"
    blur: float = mask_cleaning.BLUR
    invert: bool = False

    @classmethod
    def of(cls, request: EditRequest) -> ShapeOptions:
        """The options of a request."""
        return cls(request.mask_threshold, request.mask_dilation, request.mask_cleaning)


@dataclass(frozen=True)
class Shape:
    """The masks made from one heatmap, on its device.

    Attributes:
        edit: bool [h, w], the cells that decoding repaints.
        found: bool [h, w], the same without the margin that "edges" needs for its border.
        soft: float32 [h, w] in [0, 1]: the heatmap scaled so that the threshold is at 0.5.
    """

    edit: Tensor
    found: Tensor
    soft: Tensor


def shape(heat: Tensor, region: Tensor, options: ShapeOptions) -> Shape:
    """The masks of a heatmap, float32 [h, w], within `region`, bool [h, w].

    With cleaning "none" this is the paper's rule. "clean" blurs the heatmap, fills holes and drops
    specks. "edges" also repaints one cell around that mask.
    """
    if options.cleaning == "none":
        soft, mask = heat, (heat > options.threshold) & region
    else:
        photo = region.cpu()
        soft = mask_cleaning.blurred(heat.cpu(), photo, options.blur)
        mask = (soft > options.threshold) & photo
        mask = mask_cleaning.without_specks(mask_cleaning.without_holes(mask, photo))
        soft, mask = to_device(soft, heat.device), to_device(mask, heat.device)
    soft = _centered(soft, options.threshold)
    soft = torch.where(mask == (soft > 0.5), soft, mask.float())  # filled holes, dropped specks
    if options.invert:
        soft, mask = torch.where(region, 1 - soft, 0.0), region & ~mask
    found = grown(mask, options.dilation) & region
    margin = 1 if options.cleaning == "edges" else 0
    return Shape(grown(found, margin) & region, found, soft)


def _centered(soft: Tensor, threshold: float) -> Tensor:
    """Stretch [0, threshold] to [0, 0.5] and [threshold, 1] to [0.5, 1]."""
    low = 0.5 * soft / threshold if threshold > 0 else 0.5 * torch.ones_like(soft)
    high = 0.5 + 0.5 * (soft - threshold) / (1 - threshold)
    return torch.where(soft > threshold, high, low)
