"""Find the regions that another editor changed on purpose, although every pixel changed a little.

Editors that run the whole picture through an autoencoder return every pixel slightly different:
other noise, softer texture, shifted colors. Changes on purpose are larger, and they are compact
regions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

Pixels = NDArray[np.float32]
"""sRGB values, float32 [..., 3], 0 to 255."""

WORKING_SIDE = 1024
"""The longer side in pixels at which changes are searched; larger pictures are reduced first."""
SMOOTHING = 1 / 128
"""Standard deviation of the smoothing before pictures are compared, as a share of the longer side:
four pixels at 512. It removes noise and the loss of fine texture."""
MAX_CONTRAST_SHARE = 0.3
"""Differences up to this share of the local contrast, at most, count as noise."""
MINIMUM_NOISE = 0.5
"""Minimum of the assumed noise, in levels of 255, so that rounding is not a change."""
SEED_RATIO = 2.0
"""A region counts if its maximum exceeds the threshold by this factor."""
SPECK = 1e-3
"""Regions below this share of the picture are dropped."""
NOTICEABLE = 12.0
"""A difference in levels of 255 that people notice, for `Changes.differing`."""


@dataclass(frozen=True, eq=False)
class Changes:
    """The differences between two pictures.

    Attributes:
        mask: bool [h, w] at the working size: what was changed on purpose.
        noise: the median difference in levels of 255, after smoothing.
        differing: share of the picture, 0 to 1, whose smoothed difference is noticeable.
    """

    mask: NDArray[np.bool_]
    noise: float
    differing: float


def find_changes(
    original: Image.Image, edited: Image.Image, threshold: float, grow: float
) -> Changes:
    """Compare two pictures of one size whose colors agree (`with_colors_of`).

    Args:
        original, edited: RGB.
        threshold: what counts as a change, in multiples of the noise between the pictures.
        grow: by how much the found regions are enlarged, as a share of the longer side.
    """
    before, after = _working_pixels(original), _working_pixels(edited)
    side = max(before.shape[:2])
    sigma = SMOOTHING * side
    difference = ndimage.gaussian_filter(after - before, sigma, axes=(0, 1))
    distance = np.sqrt((difference**2).sum(2))
    noise = max(MINIMUM_NOISE, float(np.median(distance)))
    contrast = _local_contrast(before, sigma)
    ratio = distance / (noise + _contrast_share(distance, contrast) * contrast)
    mask = _regions(ratio, threshold, grow * side)
    return Changes(mask, noise, float((distance > NOTICEABLE).mean()))


def with_colors_of(original: Image.Image, edited: Image.Image) -> Image.Image:
    """Return the edited picture with its colors shifted to the original's, RGB.

    Brightness and contrast of each channel are fitted where the pictures agree best.
    """
    x = _working_pixels(edited).reshape(-1, 3)
    y = _working_pixels(original).reshape(-1, 3)
    gain, offset = np.ones(3, np.float32), np.zeros(3, np.float32)
    for _ in range(3):  # least squares over the half of the pixels that fits best
        error = np.abs(x * gain + offset - y).max(1)
        kept = error <= np.median(error)
        gain, offset = _line(x[kept], y[kept])
    table = np.arange(256)[:, None] * gain + offset  # a value of `edited` -> its new value
    return edited.point(table.round().clip(0, 255).astype(int).T.ravel().tolist())


def _line(x: Pixels, y: Pixels) -> tuple[Pixels, Pixels]:
    """Gain and offset of each channel, by least squares; one without contrast is shifted only."""
    mean_x, mean_y = x.mean(0), y.mean(0)
    variance = ((x - mean_x) ** 2).mean(0)
    covariance = ((x - mean_x) * (y - mean_y)).mean(0)
    is_flat = variance < 1.0
    gain = np.where(is_flat, 1.0, covariance / np.where(is_flat, 1.0, variance)).clip(0.5, 2.0)
    return gain.astype(np.float32), (mean_y - gain * mean_x).astype(np.float32)


def _working_pixels(picture: Image.Image) -> Pixels:
    if max(picture.size) > WORKING_SIDE:
        picture = picture.copy()
        picture.thumbnail((WORKING_SIDE, WORKING_SIDE), Image.Resampling.BOX)
    return np.asarray(picture, np.float32)


def _local_contrast(pixels: Pixels, sigma: float) -> Pixels:
    """The standard deviation of the brightness around each pixel, float32 [h, w]."""
    grey = pixels.mean(2)
    mean = ndimage.gaussian_filter(grey, sigma)
    variance = ndimage.gaussian_filter(grey**2, sigma) - mean**2
    contrast: Pixels = np.sqrt(np.maximum(variance, 0))
    return contrast


def _contrast_share(distance: NDArray[np.float32], contrast: NDArray[np.float32]) -> float:
    """The share of the local contrast that the other editor loses: it changes edges more."""
    rough = contrast >= max(1.0, float(np.quantile(contrast, 0.9)))
    if not rough.any():
        return 0.0
    return min(MAX_CONTRAST_SHARE, float(np.median(distance[rough] / contrast[rough])))


def _regions(ratio: NDArray[np.float32], threshold: float, grow: float) -> NDArray[np.bool_]:
    """Connected regions above `threshold` with a clear core, filled, without specks, enlarged."""
    above, core = ratio > threshold, ratio > threshold * SEED_RATIO
    mask: NDArray[np.bool_] = ndimage.binary_propagation(core & above, mask=above)
    mask = ndimage.binary_fill_holes(mask)
    labels, _ = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())
    kept = sizes >= SPECK * mask.size
    kept[0] = False
    mask = kept[labels]
    if grow and mask.any():
        mask = ndimage.distance_transform_edt(~mask) <= grow
    return mask
