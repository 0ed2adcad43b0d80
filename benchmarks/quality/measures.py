"""The figures of one edit, as pure functions of arrays. Masks are bool, pictures uint8."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from benchmarks.accuracy import mask_iou

Bools = NDArray[np.bool_]
Pixels = NDArray[np.uint8]
Figures = dict[str, float]


def dilate(mask: Bools, reach: int) -> Bools:
    """The mask grown by `reach` pixels along rows and columns: [H, W]."""
    grown = Image.fromarray(mask.astype(np.uint8)).filter(ImageFilter.MaxFilter(2 * reach + 1))
    return np.asarray(grown) > 0


def mask_figures(mask: Bools, region: Bools, cell: int) -> Figures:
    """The agreement of a mask with the true region, both [H, W].

    Args:
        mask: the mask to measure.
        region: the pixels of the object that a perfect edit changes.
        cell: pixels of a latent cell, the finest resolution of a mask.

    Returns: `iou`; `iou_dilated` with the region grown by one cell; `recall` and `precision`;
        `area_ratio` of mask to region; `false_area`, the share of the picture that is in the mask
        and more than one cell away from the region.
    """
    grown = dilate(region, cell)
    both, found, true = (int(np.count_nonzero(m)) for m in (mask & region, mask, region))
    return {
        "iou": mask_iou(mask, region),
        "iou_dilated": mask_iou(mask, grown),
        "recall": both / max(1, true),
        "precision": both / max(1, found),
        "area_ratio": found / max(1, true),
        "false_area": float((mask & ~grown).mean()),
    }


def blend_figures(blend: Pixels, region: Bools, outside: Bools) -> Figures:
    """How much a blend mask shows outside the edited object, and hides inside it.

    Args:
        blend: uint8 [H, W], the opacity of the edit at each pixel.
        region: the pixels of the object that a perfect edit changes.
        outside: the pixels that a perfect edit does not change.

    Returns: `leak`, the mean share of the edit over `outside`, which should take none; `miss`, the
        mean share of the photograph over `region`, which should keep none.
    """
    share = blend.astype(np.float64) / 255
    return {
        "leak": float(share[outside].mean()) if outside.any() else 0.0,
        "miss": float(1 - share[region].mean()) if region.any() else 0.0,
    }


def seam_figures(after: Pixels, ideal: Pixels, blend: Pixels) -> Figures:
    """The gradient along the border of a blend mask, in the result and in the ideal picture.

    Args:
        after, ideal: uint8 [H, W, 3]. blend: uint8 [H, W]; its border is where it crosses a half.

    Returns: `seam` and `seam_ideal`, mean gradients in 8-bit values a pixel; NaN without a border.
        A ratio above 1 is a visible seam, below 1 a blurred border.
    """
    shown = blend >= 128
    border = dilate(shown, 1) & dilate(~shown, 1)
    if not border.any():
        return {"seam": float("nan"), "seam_ideal": float("nan")}
    return {
        "seam": float(gradient(after)[border].mean()),
        "seam_ideal": float(gradient(ideal)[border].mean()),
    }


def gradient(picture: Pixels) -> NDArray[np.float64]:
    """The length of the gradient of each pixel, [H, W]: forward differences, mean of the colors."""
    values = picture.astype(np.float64)
    across = np.abs(np.diff(values, axis=1, append=values[:, -1:])).mean(-1)
    down = np.abs(np.diff(values, axis=0, append=values[-1:])).mean(-1)
    length: NDArray[np.float64] = np.hypot(across, down)
    return length


def squared_error(before: Pixels, after: Pixels, where: Bools) -> float:
    """Mean squared difference of two pictures [H, W, 3] over the pixels `where`; NaN for none."""
    if not where.any():
        return float("nan")
    difference = before[where].astype(np.float64) - after[where]
    return float(np.square(difference).mean())


def picture_figures(before: Pixels, after: Pixels, mask: Bools | None, outside: Bools) -> Figures:
    """The changes of pixels that a perfect edit does not change.

    Args:
        before, after: uint8 [H, W, 3].
        mask: where the edit may change pixels; None for methods without one.
        outside: bool [H, W], where a perfect edit changes nothing.

    Returns: `equal`, the share of pixels equal to the input's; `mse_background` over `outside`;
        with a mask also `mse_outside_mask` and `changed_outside_mask` (pixels).
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
