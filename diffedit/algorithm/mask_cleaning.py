"""Clean a mask on the latent grid with scipy: blur the heatmap, fill holes, drop specks.

The mask of step 1 has holes where an object already fits the new text, and specks where noise does
not cancel. Cleaning is not part of the paper; `mask_cleaning="none"` disables it.

Everything runs on the CPU, because a latent grid is small.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

BLUR = 0.7
"""Standard deviation of the blur, in latent cells."""
SPECK = 0.1
"""A region with a smaller share of the mask is dropped."""


def blurred(heat: Tensor, region: Tensor, sigma: float = BLUR) -> Tensor:
    """The Gaussian average of a map over the cells of the photograph.

    Args:
        heat: float32 [h, w].
        region: bool [h, w]; other cells take no part and become 0.
        sigma: standard deviation in cells, 0 for no blur.

    Returns: float32 [h, w] on the CPU, within the range of `heat`.
    """
    photo = region.cpu().numpy()
    inside = np.where(photo, heat.float().cpu().numpy(), np.float32(0))
    if sigma > 0:
        reach = {"radius": math.ceil(4 * sigma), "mode": "constant"}
        weight = ndimage.gaussian_filter(photo.astype(np.float32), sigma, **reach)
        total = ndimage.gaussian_filter(inside, sigma, **reach)
        inside = np.divide(total, weight, out=np.zeros_like(total), where=photo)
    return torch.from_numpy(inside)


def without_holes(mask: Tensor, region: Tensor) -> Tensor:
    """Fill every hole: cells outside the mask that are not connected to the region's border.

    Args:
        mask: bool [h, w]. region: bool [h, w]; cells outside of it are never filled.

    Returns: bool [h, w] on the CPU.
    """
    photo = region.cpu().numpy()
    filled = ndimage.binary_fill_holes(mask.cpu().numpy() & photo)
    return torch.from_numpy(filled & photo)


def without_specks(mask: Tensor, share: float = SPECK) -> Tensor:
    """Drop every connected region (also diagonally) with less than `share` of the mask's cells.

    A mask that has only small regions is returned unchanged.

    Args:
        mask: bool [h, w].

    Returns: bool [h, w] on the CPU.
    """
    mask = mask.cpu()
    numbers, count = ndimage.label(mask.numpy(), np.ones((3, 3)))
    cells = np.bincount(numbers.ravel(), minlength=count + 1)
    cells[0] = 0
    large = cells >= share * cells.sum()
    large[0] = False
    return torch.from_numpy(large[numbers]) if large.any() else mask
