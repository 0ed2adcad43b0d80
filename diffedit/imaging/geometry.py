"""Geometry: fit a photograph into the network's canvas, and map masks and results back.

It does not know prompts, networks or schedules.

Sizes are (height, width) as everywhere in the project; only PIL's own `.size` is (width, height).
A *cell* is one latent pixel: `factor` x `factor` pixels of the canvas.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine.netspec import Size

COARSEST = 8
"""Cells along which a canvas is whole when its size is free: UNets halve the latent three times."""


@dataclass(frozen=True)
class Placement:
    """How a photograph lies in the canvas; every size is (height, width) in pixels.

    Attributes:
        source: the photograph's own size.
        canvas: what the networks see.
        fitted: the photograph's size on the canvas, aspect kept, at least 1.
        top, left: where on the canvas it begins.
    """

    source: Size
    canvas: Size
    fitted: Size
    top: int
    left: int

    def cells(self, factor: int) -> Size:
        """(rows, columns) of the latent grid."""
        return self.canvas[0] // factor, self.canvas[1] // factor


def choose_size(photo: Size, sizes: Sequence[Size] | None, native: int, factor: int) -> Size:
    """The canvas on which the fitted photograph leaves least unused; of equal ones the larger.

    Args:
        photo: the photograph's size.
        sizes: the sizes at hand. None where any will do: then both sides are multiples of eight
            cells, the area is about `native` squared and the aspect about the photograph's.
        native: the side in pixels the model was trained for.
        factor: pixels per cell.
    """
    if sizes is not None:
        return max(sizes, key=lambda size: (_coverage(photo, size), size[0] * size[1]))
    return _free_size(photo, native, factor)


@lru_cache(1024)
def _free_size(photo: Size, native: int, factor: int) -> Size:
    """The same among all sizes that a UNet takes; a millisecond's search."""
    step = COARSEST * factor
    area = max(1.0, (native / step) ** 2)  # in squares of `step`
    longest = math.ceil(area)

    def merit(units: Size) -> float:
        there = units[0] * units[1]
        return float(_coverage(photo, units)) * min(there / area, area / there)

    nearby = (
        (rows, columns)
        for rows in range(1, longest + 1)
        for columns in range(1, min(longest, math.ceil(2 * area / rows)) + 1)
    )
    rows, columns = max(nearby, key=merit)
    return rows * step, columns * step


def _coverage(photo: Size, canvas: Size) -> Fraction:
    """The share of the canvas that the fitted photograph takes, before rounding to pixels."""
    high, wide = Fraction(photo[0], canvas[0]), Fraction(photo[1], canvas[1])
    return min(high, wide) / max(high, wide)


def fit(photo: Image.Image, canvas: Size) -> tuple[NDArray[np.float32], Placement]:
    """The photograph centred in the canvas, aspect kept (Lanczos), the rest its own reflection.

    Returns: float32 [3, H, W] in [-1, 1], and where it lies.
    """
    (width, height), (canvas_height, canvas_width) = photo.size, canvas
    if width * canvas_height >= height * canvas_width:  # as wide as the canvas
        fitted = max(1, round(height * canvas_width / width)), canvas_width
    else:
        fitted = canvas_height, max(1, round(width * canvas_height / height))
    top, left = (canvas_height - fitted[0]) // 2, (canvas_width - fitted[1]) // 2
    if (height, width) != fitted:
        # reducing_gap: whole pixels are averaged first where there are many more than needed
        photo = photo.resize(fitted[::-1], Image.Resampling.LANCZOS, reducing_gap=3.0)
    below, right = canvas_height - fitted[0] - top, canvas_width - fitted[1] - left
    # "symmetric" repeats itself as often as it takes, from a single pixel on
    pixels = np.pad(np.asarray(photo), ((top, below), (left, right), (0, 0)), mode="symmetric")
    values = pixels.transpose(2, 0, 1).astype(np.float32, order="C") / np.float32(127.5) - 1
    return values, Placement((height, width), canvas, fitted, top, left)


def region(p: Placement, factor: int) -> NDArray[np.bool_]:
    """bool [h, w]: the cells that hold any pixel of the photograph."""
    cells = np.zeros(p.cells(factor), dtype=np.bool_)
    bottom, right = p.top + p.fitted[0], p.left + p.fitted[1]
    cells[p.top // factor : -(-bottom // factor), p.left // factor : -(-right // factor)] = True
    return cells


def latent_mask(mask: Image.Image, p: Placement, factor: int) -> NDArray[np.bool_]:
    """bool [h, w]: cells that hold any white of the mask, by area, so that all of it is repainted.

    What a cell edits beyond the white, compositing takes back.

    Args:
        mask: L, 0 or 255, of the photograph's size.
    """
    assert mask.size == p.source[::-1]
    rows, columns = p.cells(factor)
    white = np.zeros(p.canvas, dtype=np.bool_)
    area = mask.convert("F").resize(p.fitted[::-1], Image.Resampling.BOX)
    white[p.top : p.top + p.fitted[0], p.left : p.left + p.fitted[1]] = np.asarray(area) > 1e-3
    cells = np.asarray(white.reshape(rows, factor, columns, factor).any(axis=(1, 3)))
    # A box filter gives a pixel that lies across two of its own to either; `mask_to_photo` looks at
    # centres, so these count too.
    down, across = _cells_of_pixels(p, factor)
    tops, lefts = (np.flatnonzero(np.diff(places, prepend=-1)) for places in (down, across))
    held = np.logical_or.reduceat(np.asarray(mask) > 0, tops, axis=0)
    cells[np.ix_(down[tops], across[lefts])] |= np.logical_or.reduceat(held, lefts, axis=1)
    return cells


def mask_to_photo(mask: NDArray[np.bool_], p: Placement, factor: int) -> Image.Image:
    """L at the photograph's size: 255 for pixels whose centre lies in a cell that is set.

    This is exactly the area that `composite` edits.
    """
    rows, columns = _cells_of_pixels(p, factor)
    values = np.where(mask, np.uint8(255), np.uint8(0))
    return Image.fromarray(values[:, columns].take(rows, axis=0))


def _cells_of_pixels(p: Placement, factor: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The cells that the photograph's rows of pixels lie in, by their centres; and its columns."""

    def cell(pixels: int, fitted: int, start: int) -> NDArray[np.int64]:
        centres = 2 * np.arange(pixels, dtype=np.int64) + 1  # twice the centres: whole numbers
        return (centres * fitted + 2 * pixels * start) // (2 * pixels * factor)

    rows = cell(p.source[0], p.fitted[0], p.top)
    return rows, cell(p.source[1], p.fitted[1], p.left)


def to_photo(image: NDArray[np.float32], p: Placement) -> Image.Image:
    """The canvas, float32 [3, H, W] in [-1, 1] (clipped), as RGB at the photograph's size."""
    assert image.shape == (3, *p.canvas)
    inside = image[:, p.top : p.top + p.fitted[0], p.left : p.left + p.fitted[1]]
    pixels = ((inside + 1) * 127.5).round().clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    if p.fitted == p.source:
        return picture
    grows = p.source[0] * p.source[1] > p.fitted[0] * p.fitted[1]
    how = Image.Resampling.BICUBIC if grows else Image.Resampling.LANCZOS
    return picture.resize(p.source[::-1], how)
