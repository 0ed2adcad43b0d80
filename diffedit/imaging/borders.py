"""The blend mask: the opacity of the edit at each pixel of the photograph.

The edit mask consists of latent cells of 8 pixels or more. `picture_border` draws a border inside
it that follows the edges in the picture, with a guided filter: around each pixel the mask is fitted
as a linear function of the colors (He, Sun and Tang, "Guided Image Filtering", TPAMI 2013). The fit
is computed on a small picture and applied to the full one (He and Sun, "Fast Guided Filter", arXiv
1505.00996). `diffedit.algorithm.mask` finds the masks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import reduce
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from diffedit.imaging import compose
from diffedit.imaging.geometry import Placement

Floats: TypeAlias = NDArray[np.float32]

SAMPLES = 4
"""Pixels of the small picture per latent cell and axis."""
RADIUS = 3 * SAMPLES
"""Half the side of the fit's window, in pixels of the small picture: three cells."""
SMOOTHNESS = 1e-2
"""Squared contrast, for colors from 0 to 1, below which the border ignores an edge."""
SOFTNESS = 0.25
"""The range of the fitted mask, around one half, over which the border fades."""
SURE = (0.6, 0.8)
"""Values of the soft map between which the opacity rises from 0 to 1."""
STRIP = 2**20
"""Number of pixels per strip, to limit memory."""


def faded(mask: Image.Image, feather: float = 1 / 256) -> Image.Image:
    """The blend mask that fades inwards from an edit mask's outline.

    Args:
        mask: L, 0 or 255, of the photograph's size.
        feather: width of the fade as a share of the longer side; see `compose.faded_area`.

    Returns: L, of the same size, 0 outside the mask.
    """
    blend = Image.new("L", mask.size)
    area = compose.faded_area(mask, round(max(mask.size) * feather))
    if area is not None:
        box, alpha = area
        blend.paste(alpha, box[:2])
    return blend


def inside(blend: Image.Image, drawn: Iterable[Image.Image]) -> Image.Image:
    """Limit a blend mask to the maximum of several borders from `picture_border`."""
    return limited(blend, reduce(ImageChops.lighter, drawn))


def limited(blend: Image.Image, border: Image.Image) -> Image.Image:
    """Return the pixelwise minimum of a blend mask and a border; both are L, of one size."""
    return ImageChops.darker(blend, border)


def picture_border(
    photo: Image.Image,
    soft: Floats,
    cells: NDArray[np.bool_],
    placement: Placement,
    factor: int,
) -> Image.Image:
    """Draw a soft mask of the photograph's size whose border follows the picture.

    Args:
        photo: RGB.
        soft: float32 [h, w] in [0, 1] on the latent grid: `Shape.soft`.
        cells: bool [h, w], the cells of the mask.
        placement: position of the photograph on the canvas.
        factor: pixels of the canvas per latent cell.

    Returns: L; 255 for pixels of the edit, 0 for pixels of the photograph.
    """
    height, width = placement.source
    fit = _fitted(photo, cells, placement, factor)
    rows, columns = _cell_coordinates(placement, factor, (height, width))
    y = _centers(height, fit.shape[1])
    x = _centers(width, fit.shape[2])
    border = np.empty((height, width), np.uint8)
    for strip in _strips(height, width):
        colors = np.asarray(photo.crop((0, strip.start, width, strip.stop)), np.float32) / 255
        slopes = interpolated(fit, y[strip], x)
        fitted = np.einsum("yxc,cyx->yx", colors, slopes[:3]) + slopes[3]
        sure = interpolated(soft[None], rows[strip], columns)[0]
        alpha = np.maximum((fitted - 0.5) / SOFTNESS + 0.5, (sure - SURE[0]) / (SURE[1] - SURE[0]))
        border[strip] = (alpha.clip(0, 1) * 255).round()
    return Image.fromarray(border)


def _fitted(
    photo: Image.Image, cells: NDArray[np.bool_], placement: Placement, factor: int
) -> Floats:
    """The linear function of the colors near each pixel of a small picture: [4, H, W]."""
    height, width = (max(1, round(side * SAMPLES / factor)) for side in placement.fitted)
    small = photo.resize((width, height), Image.Resampling.BOX, reducing_gap=3.0)
    colors = np.asarray(small, np.float32).transpose(2, 0, 1) / np.float32(255)
    rows, columns = _cell_coordinates(placement, factor, (height, width))
    mask = interpolated(cells.astype(np.float32)[None], rows, columns)[0]
    return guided_fit(colors, mask, RADIUS, SMOOTHNESS)


def guided_fit(colors: Floats, mask: Floats, radius: int, smoothness: float) -> Floats:
    """Fit a mask as a linear function of the colors around each pixel: equations 11 to 16.

    Args:
        colors: float32 [3, H, W] in [0, 1].
        mask: float32 [H, W].
        radius: half the side of the window, in pixels.
        smoothness: epsilon, added to the variances of the colors.

    Returns: float32 [4, H, W]: a slope for each color, and the constant.
    """
    mean, mean_mask = _window_mean(colors, radius), _window_mean(mask[None], radius)
    products = np.stack([colors[i] * colors[j] for i in range(3) for j in range(3)])
    outer = np.stack([mean[i] * mean[j] for i in range(3) for j in range(3)])
    variance = _window_mean(products, radius) - outer
    covariance = _window_mean(colors * mask, radius) - mean * mean_mask
    matrices = np.moveaxis(variance, 0, -1).reshape(*mask.shape, 3, 3) + smoothness * np.eye(3)
    solved = np.linalg.solve(matrices, np.moveaxis(covariance, 0, -1)[..., None])[..., 0]
    slopes = np.moveaxis(solved, -1, 0)
    constant = mean_mask - (slopes * mean).sum(0, keepdims=True)
    return _window_mean(np.concatenate([slopes, constant]), radius).astype(np.float32)


def _window_mean(values: NDArray[Any], radius: int) -> NDArray[np.float64]:
    """The mean over a square window, cut at the border: [C, H, W], in float64 for the sums."""
    result = values.astype(np.float64)
    for axis in (1, 2):
        length = result.shape[axis]
        sums = np.insert(result.cumsum(axis), 0, 0.0, axis)
        start = (np.arange(length) - radius).clip(0)
        stop = (np.arange(length) + radius + 1).clip(max=length)
        counts = (stop - start).reshape((-1, 1) if axis == 1 else (-1,))
        result = (sums.take(stop, axis) - sums.take(start, axis)) / counts
    return result


def interpolated(values: Floats, y: Floats, x: Floats) -> Floats:
    """Values between pixels, linearly: [C, H, W] at rows y and columns x -> [C, len(y), len(x)].

    Coordinates are those of pixel centers; beyond the border the nearest pixel counts.
    """
    for axis, at in ((1, y), (2, x)):
        last = values.shape[axis] - 1
        at = at.clip(0, last)
        low = np.minimum(at.astype(np.int64), max(0, last - 1))
        share = (at - low).astype(np.float32).reshape((-1, 1) if axis == 1 else (-1,))
        below, above = values.take(low, axis), values.take(np.minimum(low + 1, last), axis)
        values = below + (above - below) * share
    return values


def _centers(pixels: int, samples: int) -> Floats:
    """The coordinates of `pixels` pixels of a side in a picture of `samples` pixels a side."""
    return (((np.arange(pixels) + 0.5) * (samples / pixels)) - 0.5).astype(np.float32)


def _cell_coordinates(
    placement: Placement, factor: int, size: tuple[int, int]
) -> tuple[Floats, Floats]:
    """The latent coordinates of the rows and columns of the photograph scaled to `size`.

    They stay within the cells that the photograph covers.
    """
    found = []
    for side, pixels in zip(size, (placement.rows, placement.columns), strict=True):
        at = (_centers(side, pixels.stop - pixels.start) + 0.5 + pixels.start) / factor - 0.5
        found.append(at.clip(pixels.start // factor, (pixels.stop - 1) // factor))
    return found[0], found[1]


def _strips(height: int, width: int) -> Iterator[slice]:
    rows = max(1, STRIP // width)
    for start in range(0, height, rows):
        yield slice(start, min(start + rows, height))
