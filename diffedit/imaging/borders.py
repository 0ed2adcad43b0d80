"""The blend mask: the opacity of the edit at each pixel of the photograph.

The edit mask consists of latent cells of 8 pixels or more. `picture_border` draws a border inside
it that follows the edges in the picture, with a guided filter: around each pixel the mask is fitted
as a linear function of the colors (He, Sun and Tang, "Guided Image Filtering", TPAMI 2013). The fit
is computed on a small picture and applied to the full one (He and Sun, "Fast Guided Filter", arXiv
1505.00996). `diffedit.algorithm.mask` finds the masks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import reduce
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from diffedit.imaging import compose
from diffedit.imaging.geometry import Placement

Floats: TypeAlias = NDArray[np.float32]

Part: TypeAlias = tuple[slice, slice]
"""Some rows and some columns."""

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
PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
"""The entries of a symmetric matrix of the colors."""
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
    box: compose.Box | None = None,
) -> Image.Image:
    """Draw a soft mask of the photograph's size whose border follows the picture.

    Args:
        photo: RGB.
        soft: float32 [h, w] in [0, 1] on the latent grid: `Shape.soft`.
        cells: bool [h, w], the cells of the mask.
        placement: position of the photograph on the canvas.
        factor: pixels of the canvas per latent cell.
        box: (left, top, right, bottom) in the photograph: what is computed; None is all of it.

    Returns: L; 255 for pixels of the edit, 0 for pixels of the photograph and outside `box`.
    """
    height, width = placement.source
    left, top, right, bottom = box or (0, 0, width, height)
    small = tuple(max(1, round(side * SAMPLES / factor)) for side in placement.fitted)
    y, x = _centers(height, small[0])[top:bottom], _centers(width, small[1])[left:right]
    fit, first = _fitted(photo, cells, placement, factor, (y, x))
    rows, columns = _cell_coordinates(placement, factor, (height, width))
    rows, columns = rows[top:bottom], columns[left:right]
    border = np.zeros((height, width), np.uint8)
    for strip in _strips(bottom - top, right - left):
        area = left, top + strip.start, right, top + strip.stop
        colors = np.asarray(photo.crop(area), np.float32) / 255
        slopes = interpolated(fit, y[strip] - first[0], x - first[1])
        fitted = (
            colors[..., 0] * slopes[0] + colors[..., 1] * slopes[1] + colors[..., 2] * slopes[2]
        )
        sure = interpolated(soft[None], rows[strip], columns)[0]
        alpha = np.maximum(
            (fitted + slopes[3] - 0.5) / SOFTNESS + 0.5, (sure - SURE[0]) / (SURE[1] - SURE[0])
        )
        border[area[1] : area[3], left:right] = (alpha.clip(0, 1) * 255).round()
    return Image.fromarray(border)


def _fitted(
    photo: Image.Image,
    cells: NDArray[np.bool_],
    placement: Placement,
    factor: int,
    wanted: tuple[Floats, Floats],
) -> tuple[Floats, tuple[int, int]]:
    """The linear function of the colors near some pixels of a small picture.

    Args:
        wanted: the rows and columns of the small picture where it is needed.

    Returns: float32 [4, H, W] of a part of the small picture, and that part's first row and column.
    """
    height, width = (max(1, round(side * SAMPLES / factor)) for side in placement.fitted)
    small = photo.resize((width, height), Image.Resampling.BOX, reducing_gap=3.0)
    colors = np.asarray(small, np.float32).transpose(2, 0, 1) / np.float32(255)
    rows, columns = _cell_coordinates(placement, factor, (height, width))
    mask = interpolated(cells.astype(np.float32)[None], rows, columns)[0]
    (y, y_read), (x, x_read) = (
        _needed(at, side) for at, side in zip(wanted, (height, width), strict=True)
    )
    fit = guided_fit(
        colors[:, y_read, x_read],
        mask[y_read, x_read],
        RADIUS,
        SMOOTHNESS,
        (_shifted(y, y_read.start), _shifted(x, x_read.start)),
    )
    return fit, (y.start, x.start)


def _needed(at: Floats, side: int) -> tuple[slice, slice]:
    """The pixels of a side that coordinates lie between, and all that their fits depend on."""
    needed = slice(max(0, math.floor(at.min())), min(side, math.floor(at.max()) + 2))
    return needed, slice(max(0, needed.start - 2 * RADIUS), min(side, needed.stop + 2 * RADIUS))


def _shifted(pixels: slice, start: int) -> slice:
    """The same pixels, counted from another one."""
    return slice(pixels.start - start, pixels.stop - start)


def guided_fit(
    colors: Floats, mask: Floats, radius: int, smoothness: float, part: Part | None = None
) -> Floats:
    """Fit a mask as a linear function of the colors around each pixel: equations 11 to 16.

    Args:
        colors: float32 [3, H, W] in [0, 1].
        mask: float32 [H, W].
        radius: half the side of the window, in pixels.
        smoothness: epsilon, added to the variances of the colors.
        part: the rows and columns to return; None for all.

    Returns: float32 [4, H, W]: a slope for each color, and the constant.
    """
    wanted = part or (slice(0, mask.shape[0]), slice(0, mask.shape[1]))
    rows, columns = (
        slice(max(0, one.start - radius), min(side, one.stop + radius))
        for one, side in zip(wanted, mask.shape, strict=True)
    )  # whose windows the wanted pixels are in
    products = [colors[i] * colors[j] for i, j in PAIRS]
    values = np.stack([*colors, mask, *products, *(colors * mask)])
    means = _window_mean(values, radius, (rows, columns))
    mean, mean_mask = means[:3], means[3:4]
    variance = means[4:10] - np.stack([mean[i] * mean[j] for i, j in PAIRS])
    variance[[PAIRS.index((i, i)) for i in range(3)]] += smoothness
    covariance = means[10:] - mean * mean_mask
    slopes = _solved(variance, covariance)
    constant = mean_mask - (slopes * mean).sum(0, keepdims=True)
    inner = _shifted(wanted[0], rows.start), _shifted(wanted[1], columns.start)
    return _window_mean(np.concatenate([slopes, constant]), radius, inner).astype(np.float32)


def _solved(matrices: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Solve symmetric systems of three equations by Cramer's rule.

    LAPACK takes ten times as long for so many small systems. `smoothness` keeps them far from
    singular.

    Args:
        matrices: [6, ...], the entries of `PAIRS`.
        right: [3, ...].
    """
    a, b, c, d, e, f = matrices
    adjugate = {
        (0, 0): d * f - e * e,
        (0, 1): c * e - b * f,
        (0, 2): b * e - c * d,
        (1, 1): a * f - c * c,
        (1, 2): b * c - a * e,
        (2, 2): a * d - b * b,
    }
    determinant = a * adjugate[0, 0] + b * adjugate[0, 1] + c * adjugate[0, 2]
    rows = [[adjugate[min(i, j), max(i, j)] for j in range(3)] for i in range(3)]
    solved = np.stack([row[0] * right[0] + row[1] * right[1] + row[2] * right[2] for row in rows])
    solved /= determinant
    return solved


def _window_mean(values: NDArray[Any], radius: int, part: Part) -> NDArray[np.float64]:
    """The mean over a square window, cut at the border, for some rows and columns: [C, H, W].

    It sums in float64.
    """
    result = values.astype(np.float64)
    for wanted in part:  # the second one on swapped axes
        channels, length, width = result.shape
        sums = np.zeros((channels, length + 2 * radius + 1, width))
        end = radius + 1 + length
        np.cumsum(result, 1, out=sums[:, radius + 1 : end])
        sums[:, end:] = sums[:, end - 1 : end]  # sums[i] is the sum before pixel i - radius
        start, stop = wanted.start, wanted.stop
        position = np.arange(start, stop)
        counts = (position + radius + 1).clip(max=length) - (position - radius).clip(0)
        windows = sums[:, start + 2 * radius + 1 : stop + 2 * radius + 1] - sums[:, start:stop]
        windows /= counts[:, None]
        result = np.ascontiguousarray(windows.swapaxes(1, 2))
    return result


def interpolated(values: Floats, y: Floats, x: Floats) -> Floats:
    """Values between pixels, linearly: [C, H, W] at rows y and columns x -> [C, len(y), len(x)].

    Coordinates are those of pixel centers; beyond the border the nearest pixel counts.
    """
    for at in (y, x):  # the second one on swapped axes: rows are copied faster than columns
        last = values.shape[1] - 1
        at = at.clip(0, last)
        low = np.minimum(at.astype(np.int64), max(0, last - 1))
        share = (at - low).astype(np.float32)[:, None]
        below, above = values.take(low, 1), values.take(np.minimum(low + 1, last), 1)
        values = (below + (above - below) * share).swapaxes(1, 2)
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
