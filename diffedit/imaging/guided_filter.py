"""The guided filter: fit a mask as a linear function of the colors around each pixel.

He, Sun and Tang, "Guided Image Filtering", TPAMI 2013. The sums over windows are sums of whole
numbers, which float64 adds without rounding. So the fit of a pixel is the same to the bit whether
it is computed for a part of a picture or for all of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Doubles: TypeAlias = NDArray[np.float64]
Floats: TypeAlias = NDArray[np.float32]
Levels: TypeAlias = NDArray[np.uint8]
Part: TypeAlias = tuple[slice, slice]
"""Some rows and some columns."""

PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
"""The entries of a symmetric matrix of the colors."""
MASK_UNIT, SLOPE_UNIT = 2.0**24, 2.0**30
"""Whole numbers per 1 of a mask and of a slope; the sums stay below 2**53."""


@dataclass(frozen=True, eq=False)
class Colors:
    """The colors around each pixel of a part of a picture: all that fits need of the picture.

    Attributes:
        mean: float64 [w, 3, h], the means of the windows, from 0 to 1.
        inverse: float64 [w, 6, h], the entries `PAIRS` of the inverse of their covariances.
    """

    mean: Doubles
    inverse: Doubles

    @classmethod
    def of(cls, levels: Levels, radius: int, smoothness: float, part: Part) -> Colors:
        """The colors of a part of a picture.

        Args:
            levels: uint8 [3, H, W].
            radius: half the side of the window in pixels.
            smoothness: epsilon, added to the variances.
            part: rows and columns.
        """
        values = np.empty((levels.shape[1], 9, levels.shape[2]))
        values[:, :3] = levels.swapaxes(0, 1)
        for k, (i, j) in enumerate(PAIRS, 3):
            np.multiply(values[:, i], values[:, j], out=values[:, k])
        sums = _window_sums(values, radius, part)
        share = 1 / _counts(part, radius, levels.shape[1:])
        mean = sums[:, :3] * (share / 255)
        variance = sums[:, 3:] * (share / 255**2)
        for k, (i, j) in enumerate(PAIRS):
            variance[:, k] -= mean[:, i] * mean[:, j]
            if i == j:
                variance[:, k] += smoothness
        return cls(mean, inverse(variance))

    def of_part(self, part: Part) -> Colors:
        """The same for some of the rows and columns."""
        rows, columns = part
        return Colors(self.mean[columns, :, rows], self.inverse[columns, :, rows])

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self.mean.nbytes + self.inverse.nbytes


def fit(
    levels: Levels,
    mask: Floats,
    radius: int,
    smoothness: float,
    part: Part | None = None,
    colors: Colors | None = None,
) -> Floats:
    """Fit a mask as a linear function of the colors around each pixel: equations 11 to 16.

    Args:
        levels: uint8 [3, H, W], the colors.
        mask: float32 [H, W] in [0, 1].
        radius: half the side of the window in pixels.
        smoothness: epsilon, added to the variances of the colors, which are from 0 to 1.
        part: the rows and columns to return; None for all.
        colors: of all rows and columns, with this radius and smoothness, if they are known.

    Returns: float32 [4, h, w]: a slope for each color, from 0 to 1, and the constant. Where the
    mask is all 0 or all 1 within twice the radius, the slopes are 0 and the constant is exactly
    that.
    """
    size = height, width = mask.shape
    wanted = part or (slice(0, height), slice(0, width))
    inside = enlarged(wanted, radius, size)  # the pixels whose windows contain a wanted one
    read = enlarged(inside, radius, size)
    levels, mask, local = levels[:, read[0], read[1]], mask[read], shifted(inside, read)
    if colors is None:
        colors = Colors.of(levels, radius, smoothness, local)
    else:
        colors = colors.of_part(inside)
    values = np.empty((mask.shape[0], 4, mask.shape[1]))
    np.rint(mask * np.float32(MASK_UNIT), out=values[:, 0])
    np.multiply(levels.swapaxes(0, 1), values[:, :1], out=values[:, 1:])
    sums = _window_sums(values, radius, local)
    lines = _lines(colors, sums, 1 / _counts(inside, radius, size))
    lines *= SLOPE_UNIT
    lines = np.rint(lines, out=lines).transpose(2, 1, 0)
    means = _window_sums(lines, radius, shifted(wanted, inside))
    means *= 1 / (_counts(wanted, radius, size) * SLOPE_UNIT)
    return means.transpose(1, 2, 0).astype(np.float32, order="C")


def enlarged(part: Part, radius: int, size: tuple[int, int]) -> Part:
    """The rows and columns within some distance of a part, in a picture of (height, width)."""
    rows, columns = (
        slice(max(0, one.start - radius), min(side, one.stop + radius))
        for one, side in zip(part, size, strict=True)
    )
    return rows, columns


def shifted(part: Part, origin: Part) -> Part:
    """The same rows and columns, counted from the first ones of another part."""
    rows, columns = (
        slice(one.start - first.start, one.stop - first.start)
        for one, first in zip(part, origin, strict=True)
    )
    return rows, columns


def _window_sums(values: Doubles, radius: int, part: Part) -> Doubles:
    """Sums over a square window, cut at the border: [H, C, W] -> [w, C, h] of a part."""
    rows, columns = part
    values = _sums_along(values, radius, rows)
    return _sums_along(np.ascontiguousarray(values.transpose(2, 1, 0)), radius, columns)


def _sums_along(values: Doubles, radius: int, wanted: slice) -> Doubles:
    """Sums over the window around some positions of the first axis, cut at its ends."""
    length = len(values)
    first, last = max(0, wanted.start - radius), min(length, wanted.stop + radius)
    running = np.empty((last - first + 1, *values.shape[1:]))
    running[0] = 0
    for k in range(last - first):  # faster than cumsum, which does not go through memory in order
        np.add(running[k], values[first + k], out=running[k + 1])
    at = np.arange(wanted.start - first, wanted.stop - first)
    ends = (at + radius + 1).clip(max=last - first)
    sums: Doubles = running.take(ends, 0)
    sums -= running.take((at - radius).clip(0), 0)
    return sums


def _counts(part: Part, radius: int, size: tuple[int, int]) -> Doubles:
    """The number of pixels in the window around each pixel of a part: [w, 1, h]."""
    rows, columns = (
        (np.arange(one.start, one.stop) + radius + 1).clip(max=side)
        - (np.arange(one.start, one.stop) - radius).clip(0)
        for one, side in zip(part, size, strict=True)
    )
    counts: Doubles = (columns[:, None, None] * rows).astype(np.float64)
    return counts


def _lines(colors: Colors, sums: Doubles, share: Doubles) -> Doubles:
    """The fit of each window: slopes and constant, float64 [w, 4, h].

    Args:
        colors: of the windows.
        sums: [w, 4, h], of the mask and its products with the colors.
        share: [w, 1, h], 1 / number of pixels.
    """
    mean_mask = sums[:, :1] * (share / MASK_UNIT)
    right = sums[:, 1:] * (share / (255 * MASK_UNIT))
    right -= colors.mean * mean_mask
    lines = np.empty_like(sums)
    constant = mean_mask[:, 0]
    for i in range(3):
        slope = lines[:, i]
        for j in range(3):
            entry = colors.inverse[:, PAIRS.index((min(i, j), max(i, j)))] * right[:, j]
            slope[...] = slope + entry if j else entry
        constant -= slope * colors.mean[:, i]
    lines[:, 3] = constant
    return lines


def inverse(matrices: Doubles) -> Doubles:
    """Invert symmetric matrices by Cramer's rule: [w, 6, h] -> [w, 6, h], the entries of `PAIRS`.

    LAPACK takes ten times as long for so many small matrices. `smoothness` keeps them far from
    singular.
    """
    a, b, c, d, e, f = matrices.swapaxes(0, 1)
    adjugate = (
        d * f - e * e,
        c * e - b * f,
        b * e - c * d,
        a * f - c * c,
        b * c - a * e,
        a * d - b * b,
    )
    determinant = a * adjugate[0] + b * adjugate[1] + c * adjugate[2]
    result = np.stack(adjugate, 1)
    result /= determinant[:, None]
    return result
