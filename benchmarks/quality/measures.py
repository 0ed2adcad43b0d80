"""What is measured of one edit: pure functions of arrays. Masks are bool, pictures uint8.

It knows no model and no scene.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Pixels = NDArray[np.uint8]
Figures = dict[str, float]


def dilate(mask: Bools, reach: int) -> Bools:
    """Every pixel within `reach` of a set one, along rows and columns: [H, W]."""
    height, width = mask.shape
    padded = np.pad(mask, reach)
    along = np.zeros_like(padded[:, :width])
    for shift in range(2 * reach + 1):
        along |= padded[:, shift : shift + width]
    grown = np.zeros_like(mask)
    for shift in range(2 * reach + 1):
        grown |= along[shift : shift + height]
    return grown


def iou(mask: Bools, region: Bools) -> float:
    """Intersection over union; two empty masks agree fully."""
    union = np.count_nonzero(mask | region)
    return np.count_nonzero(mask & region) / union if union else 1.0


def mask_figures(mask: Bools, region: Bools, cell: int) -> Figures:
    """How a found mask agrees with the true region, [H, W] both.

    Args:
        mask: what was found.
        region: what an ideal edit changes of its object.
        cell: pixels of a latent cell, the finest a mask can be.

    Returns: `iou`; `iou_dilated` with the region grown by one cell; `recall` and `precision`;
        `area_ratio` of mask to region; `false_area`, the share of the picture that is in the mask
        and more than one cell away from the region.
    """
    grown = dilate(region, cell)
    both, found, true = (int(np.count_nonzero(m)) for m in (mask & region, mask, region))
    return {
        "iou": iou(mask, region),
        "iou_dilated": iou(mask, grown),
        "recall": both / max(1, true),
        "precision": both / max(1, found),
        "area_ratio": found / max(1, true),
        "false_area": float((mask & ~grown).mean()),
    }


def squared_error(before: Pixels, after: Pixels, where: Bools) -> float:
    """Mean squared difference of two pictures [H, W, 3] over some pixels; NaN where none are."""
    if not where.any():
        return float("nan")
    difference = before[where].astype(np.float64) - after[where]
    return float(np.square(difference).mean())


def picture_figures(before: Pixels, after: Pixels, mask: Bools | None, outside: Bools) -> Figures:
    """What an edit did to the pixels it should have left alone.

    Args:
        before, after: uint8 [H, W, 3].
        mask: where the edit was allowed to change pixels; None for methods without one.
        outside: bool [H, W], where an ideal edit changes nothing.

    Returns: `equal`, the share of the picture's pixels that are the input's own; `mse_background`,
        over `outside`; and with a mask `mse_outside_mask` and `changed_outside_mask` (pixels).
    """
    same = (before == after).all(-1)
    found = {
        "equal": float(same.mean()),
        "mse_background": squared_error(before, after, outside),
    }
    if mask is not None:
        found["mse_outside_mask"] = squared_error(before, after, ~mask)
        found["changed_outside_mask"] = float(np.count_nonzero(~same & ~mask))
    return found


def decibel(mse: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio of a mean squared error of 8-bit pixels, at most 99 dB."""
    return 10 * np.log10(255.0**2 / np.maximum(mse, 255.0**2 * 10**-9.9))
