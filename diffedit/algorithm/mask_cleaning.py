"""Clean a mask on the latent grid: smooth the map, fill holes, drop specks. Tensors only.

The mask of step 1 has holes where an object happens to agree with the new text, and specks where
noise does not cancel. Cleaning is not part of the paper; `mask_cleaning="none"` leaves it out.

Everything runs on the CPU: a latent grid is small, and connected regions need values on the host.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
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
    heat, region = heat.float().cpu(), region.cpu()
    inside = torch.where(region, heat, 0.0)
    if sigma <= 0:
        return inside
    radius = math.ceil(4 * sigma)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    both = torch.stack([inside, region.float()])[:, None]
    both = F.conv2d(both, kernel.view(1, 1, -1, 1), padding=(radius, 0))
    both = F.conv2d(both, kernel.view(1, 1, 1, -1), padding=(0, radius))
    total, weight = both[:, 0]
    return torch.where(region, total / weight, 0.0)


def without_holes(mask: Tensor, region: Tensor) -> Tensor:
    """Fill every hole: kept cells that no path of kept neighbors joins to the region's border.

    Args:
        mask: bool [h, w]. region: bool [h, w]; cells outside of it are never filled.

    Returns: bool [h, w] on the CPU.
    """
    mask, region = mask.cpu(), region.cpu()
    kept = F.pad(~(mask & region), (1, 1, 1, 1), value=True)  # joined around the grid's border
    numbers = _regions(kept, diagonal=False)
    return (numbers != numbers[0, 0])[1:-1, 1:-1] & region


def without_specks(mask: Tensor, share: float = SPECK) -> Tensor:
    """Drop every connected region (also diagonally) with less than `share` of the mask's cells.

    A mask of small regions only is returned as it is: it has no main part.

    Args:
        mask: bool [h, w].

    Returns: bool [h, w] on the CPU.
    """
    mask = mask.cpu()
    numbers = _regions(mask, diagonal=True)
    cells = torch.bincount(numbers.flatten(), minlength=mask.numel() + 1)
    cells[0] = 0
    large = cells >= share * cells.sum()
    large[0] = False
    return large[numbers] if large.any() else mask


def _regions(mask: Tensor, *, diagonal: bool) -> Tensor:
    """The number of each cell's connected region, int64 [h, w]: 1 or more; 0 outside the mask.

    Each round joins every region to its neighbor with the highest number, so the number of
    regions that are not yet whole at least halves.
    """
    own = torch.arange(1, mask.numel() + 1).view(mask.shape)
    numbers = torch.where(mask, own, 0)
    while True:
        highest = torch.where(mask, _highest_neighbor(numbers, diagonal=diagonal), 0)
        joined = torch.zeros(mask.numel() + 1, dtype=torch.int64)
        joined.scatter_reduce_(0, numbers.flatten(), highest.flatten(), "amax")
        if torch.equal(joined[numbers], numbers):
            return numbers
        for _ in range(3):  # follow a chain of 8 joins at once
            joined = joined[joined]
        numbers = joined[numbers]


def _highest_neighbor(numbers: Tensor, *, diagonal: bool) -> Tensor:
    """The maximum of each cell and its 4 or 8 neighbors; cells beyond the border count as 0."""
    padded = F.pad(numbers, (1, 1, 1, 1))
    center, up, down = padded[1:-1], padded[:-2], padded[2:]
    column = center.maximum(up).maximum(down)
    sides = column if diagonal else center
    return column[:, 1:-1].maximum(sides[:, :-2]).maximum(sides[:, 2:])
