"""Fit a photograph to the networks' canvas, and map masks and results back to the photograph.

Sizes are (height, width), as everywhere in the project; only PIL's `.size` is (width, height).
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

from diffedit.imaging.resample import Span
from diffedit.imaging.window import Box
from engine.netspec import Size

CANVAS_STEP = 8
"""A freely chosen canvas side is a multiple of this many cells: UNets halve the latent 3 times."""


@dataclass(frozen=True)
class Placement:
    """Position of a photograph on the canvas. Every size is (height, width) in pixels.

    Attributes:
        source: size of the photograph.
        canvas: size of the networks' input.
        fitted: size of the photograph on the canvas; same aspect ratio, each side at least 1.
        top, left: first row and column of the photograph on the canvas.
    """

    source: Size
    canvas: Size
    fitted: Size
    top: int
    left: int

    @property
    def rows(self) -> slice:
        """The canvas rows that the photograph covers."""
        return slice(self.top, self.top + self.fitted[0])

    @property
    def columns(self) -> slice:
        """The canvas columns that the photograph covers."""
        return slice(self.left, self.left + self.fitted[1])

    def cells(self, factor: int) -> Size:
        """Return (rows, columns) of the latent grid."""
        return self.canvas[0] // factor, self.canvas[1] // factor


def choose_size(
    photo: Size,
    sizes: Sequence[Size] | None,
    native: int,
    factor: int,
    max_side: int | None = None,
) -> Size:
    """Return the canvas size that the fitted photograph covers best; the larger one of a tie.

    Args:
        photo: size of the photograph.
        sizes: available canvas sizes. None allows any size: both sides are then multiples of
            `CANVAS_STEP` cells, the area is close to `native` squared, and the aspect ratio close
            to the photograph's.
        native: side in pixels the model was trained for.
        factor: pixels per cell.
        max_side: limit of both sides in pixels, if `sizes` is None.

    Examples:
        >>> choose_size((2000, 3000), [(512, 512), (512, 768)], native=512, factor=8)
        (512, 768)
        >>> choose_size((2000, 3000), None, native=512, factor=8)
        (448, 640)
    """
    if sizes is not None:
        return max(sizes, key=lambda size: (_coverage(photo, size), size[0] * size[1]))
    return _free_size(photo, native, factor, max_side)


@lru_cache(1024)
def _free_size(photo: Size, native: int, factor: int, max_side: int | None) -> Size:
    """Search all sizes the UNet accepts; takes about a millisecond."""
    step = CANVAS_STEP * factor
    area = max(1.0, (native / step) ** 2)  # in units of step x step pixels
    longest = math.ceil(area)
    if max_side is not None:
        longest = max(1, min(longest, max_side // step))

    def score(units: Size) -> float:
        units_area = units[0] * units[1]
        return float(_coverage(photo, units)) * min(units_area / area, area / units_area)

    candidates = (
        (rows, columns)
        for rows in range(1, longest + 1)
        for columns in range(1, min(longest, math.ceil(2 * area / rows)) + 1)
    )
    rows, columns = max(candidates, key=score)
    return rows * step, columns * step


def _coverage(photo: Size, canvas: Size) -> Fraction:
    """Return the share of the canvas that the photograph covers, before rounding to pixels."""
    vertical, horizontal = Fraction(photo[0], canvas[0]), Fraction(photo[1], canvas[1])
    return min(vertical, horizontal) / max(vertical, horizontal)


def place(photo: Size, canvas: Size) -> Placement:
    """Return where a photograph is on a canvas: as large as it fits, in the middle.

    Examples:
        >>> place((2000, 3000), (512, 512))
        Placement(source=(2000, 3000), canvas=(512, 512), fitted=(341, 512), top=85, left=0)
    """
    (height, width), (canvas_height, canvas_width) = photo, canvas
    if width * canvas_height >= height * canvas_width:  # wider than the canvas
        fitted = max(1, round(height * canvas_width / width)), canvas_width
    else:
        fitted = canvas_height, max(1, round(width * canvas_height / height))
    top, left = (canvas_height - fitted[0]) // 2, (canvas_width - fitted[1]) // 2
    return Placement(photo, canvas, fitted, top, left)


def fit(photo: Image.Image, canvas: Size) -> tuple[NDArray[np.float32], Placement]:
    """The photograph as the networks see it, see `fit_pixels`.

    Returns: float32 [3, H, W] in [-1, 1], and the photograph's position.
    """
    pixels, placement = fit_pixels(photo, canvas)
    return to_values(pixels), placement


def fit_pixels(photo: Image.Image, canvas: Size) -> tuple[NDArray[np.uint8], Placement]:
    """Resize the photograph (Lanczos), center it on the canvas and fill the rest by reflection.

    Returns: uint8 [H, W, 3], and the photograph's position.
    """
    placement = place(photo.size[::-1], canvas)
    (height, width), top, left = placement.fitted, placement.top, placement.left
    if placement.source != placement.fitted:
        # reducing_gap: shrink by a whole factor first, which is faster for large photographs
        photo = photo.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
    below, right = canvas[0] - height - top, canvas[1] - width - left
    pixels = np.asarray(photo)
    if placement.fitted != canvas:
        # "symmetric" repeats the reflection, so even a photograph of one pixel fills the canvas
        pixels = np.pad(pixels, ((top, below), (left, right), (0, 0)), mode="symmetric")
    return pixels, placement


def to_values(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Pixels, uint8 [H, W, 3], as the networks take them: float32 [3, H, W] in [-1, 1]."""
    values = pixels.transpose(2, 0, 1).astype(np.float32, order="C")
    values /= np.float32(127.5)
    values -= 1
    return values


def region(placement: Placement, factor: int) -> NDArray[np.bool_]:
    """Return bool [h, w]: the cells that contain any pixel of the photograph."""
    cells = np.zeros(placement.cells(factor), dtype=np.bool_)
    rows, columns = (
        slice(pixels.start // factor, math.ceil(pixels.stop / factor))
        for pixels in (placement.rows, placement.columns)
    )
    cells[rows, columns] = True
    return cells


def latent_mask(mask: Image.Image, placement: Placement, factor: int) -> NDArray[np.bool_]:
    """Return bool [h, w]: the cells that contain any white area of the mask.

    Every white pixel is repainted. Cells at the edge of the mask also repaint some black pixels;
    `compose.composite` restores those.

    Args:
        mask: L, 0 or 255, of the photograph's size.
        placement: position of the photograph.
        factor: pixels per cell.
    """
    assert mask.size == placement.source[::-1]
    rows, columns = placement.cells(factor)
    white = np.zeros(placement.canvas, dtype=np.bool_)
    area = mask.convert("F").resize(placement.fitted[::-1], Image.Resampling.BOX)
    white[placement.rows, placement.columns] = np.asarray(area) > 1e-3
    cells = np.asarray(white.reshape(rows, factor, columns, factor).any(axis=(1, 3)))
    # The box filter assigns a pixel between two cells to either one, `mask_to_photo` to the cell of
    # its center. Set that cell as well, or the pixel might not be edited.
    cell_rows, cell_columns = _cells_of_pixels(placement, factor)
    tops, lefts = (np.flatnonzero(np.diff(c, prepend=-1)) for c in (cell_rows, cell_columns))
    any_white = np.logical_or.reduceat(np.asarray(mask) > 0, tops, axis=0)
    any_white = np.logical_or.reduceat(any_white, lefts, axis=1)
    cells[np.ix_(cell_rows[tops], cell_columns[lefts])] |= any_white
    return cells


def latent_levels(mask: Image.Image, placement: Placement, factor: int) -> NDArray[np.float32]:
    """Return float32 [h, w] in [0, 1]: the lightest pixel of a soft mask in each cell.

    Args:
        mask: L, of the photograph's size.
        placement: position of the photograph.
        factor: pixels per cell.

    It is above 0 in the cells of `latent_mask` of the same mask, except where resizing the mask
    spreads the area of a single pixel to a neighboring cell.
    """
    assert mask.size == placement.source[::-1]
    cells = np.zeros(placement.cells(factor), dtype=np.float32)
    cell_rows, cell_columns = _cells_of_pixels(placement, factor)
    tops, lefts = (np.flatnonzero(np.diff(c, prepend=-1)) for c in (cell_rows, cell_columns))
    lightest = np.maximum.reduceat(np.asarray(mask), tops, axis=0)
    lightest = np.maximum.reduceat(lightest, lefts, axis=1)
    cells[np.ix_(cell_rows[tops], cell_columns[lefts])] = lightest.astype(np.float32) / 255
    return cells


def mask_to_photo(mask: NDArray[np.bool_], placement: Placement, factor: int) -> Image.Image:
    """Return L of the photograph's size: 255 for pixels whose center is in a cell of the mask.

    This is exactly the area that `compose.composite` replaces.
    """
    rows, columns = _cells_of_pixels(placement, factor)
    values = np.where(mask, np.uint8(255), np.uint8(0))
    return Image.fromarray(values[:, columns].take(rows, axis=0))


def _cells_of_pixels(
    placement: Placement, factor: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the cell row of each pixel row of the photograph, and the cell column of each column.

    A pixel belongs to the cell that contains its center.
    """

    def cells(pixels: int, fitted: int, start: int) -> NDArray[np.int64]:
        doubled_centers = 2 * np.arange(pixels, dtype=np.int64) + 1  # doubled: whole numbers
        return (doubled_centers * fitted + 2 * pixels * start) // (2 * pixels * factor)

    rows = cells(placement.source[0], placement.fitted[0], placement.top)
    return rows, cells(placement.source[1], placement.fitted[1], placement.left)


def to_photo(
    image: NDArray[np.float32], placement: Placement, box: Box | None = None
) -> Image.Image:
    """Cut the photograph out of a canvas and return it, or a part of it, as RGB.

    Args:
        image: float32 [3, H, W]; values outside [-1, 1] are clipped.
        placement: position of the photograph.
        box: (left, top, right, bottom) in the photograph, not empty; None returns all of it.

    Returns: RGB of the photograph's size, or of the box's.
    """
    assert image.shape == (3, *placement.canvas)
    left, top, right, bottom = box or (0, 0, *placement.source[::-1])
    columns, rows = (
        Span.of(start, stop, fitted, source)
        for start, stop, fitted, source in zip(
            (left, top),
            (right, bottom),
            placement.fitted[::-1],
            placement.source[::-1],
            strict=True,
        )
    )
    inside = image[:, placement.rows, placement.columns][:, rows.read, columns.read]
    pixels = ((inside + 1) * 127.5).round().clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    if placement.fitted == placement.source:
        return picture
    enlarge = placement.source[0] * placement.source[1] > placement.fitted[0] * placement.fitted[1]
    resampling = Image.Resampling.BICUBIC if enlarge else Image.Resampling.LANCZOS
    # Two calls, because Pillow chooses which direction comes first by the sizes.
    across = columns.sampled[0], 0, columns.sampled[1], picture.height
    picture = picture.resize((columns.made, picture.height), resampling, box=across)
    down = 0, rows.sampled[0], columns.made, rows.sampled[1]
    picture = picture.resize((columns.made, rows.made), resampling, box=down)
    x, y = columns.skipped, rows.skipped
    return picture.crop((x, y, x + right - left, y + bottom - top))
