"""The tiles of a photograph whose border has to be computed, because the mask's outline is near.

In other tiles the mask has one value within the reach of the fit, so the border does, too. Nothing
here knows pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from diffedit.imaging.guided_filter import Part

Bools: TypeAlias = NDArray[np.bool_]
Floats: TypeAlias = NDArray[np.float32]

TILE, TILES = 32, 64
"""Tiles have at least `TILE` pixels a side; a side has at most about `TILES` of them."""

ROWS = 3
"""Rows of tiles in one piece."""


@dataclass(frozen=True, eq=False)
class Side:
    """The rows or the columns of a photograph on the latent grid and on the small picture.

    Attributes:
        cells: float32 [n], the latent coordinates of the photograph's pixels.
        small: float32 [n], their coordinates in the small picture.
        small_cells: float32 [s], the latent coordinates of the small picture's pixels.
    """

    cells: Floats
    small: Floats
    small_cells: Floats

    @classmethod
    def of(cls, pixels: int, samples: int, on_canvas: slice, factor: int) -> Side:
        """A side of `pixels` pixels, and `samples` of the small picture, at a place of the canvas.

        The latent coordinates stay within the cells that the photograph covers.
        """
        last = on_canvas.start // factor, (on_canvas.stop - 1) // factor
        length = on_canvas.stop - on_canvas.start
        on_grid = (
            ((_centers(side, length) + 0.5 + on_canvas.start) / factor - 0.5).clip(*last)
            for side in (pixels, samples)
        )
        cells, small_cells = on_grid
        return cls(cells, _centers(pixels, samples), small_cells)

    def small_pixels(self, part: slice) -> slice:
        """The pixels of the small picture that pixels of the photograph lie between."""
        first, last = np.floor(self.small[[part.start, part.stop - 1]]).astype(int)
        return slice(max(0, first), min(len(self.small_cells), last + 2))

    def around(self, part: slice) -> slice:
        """The cells that pixels of the photograph lie between, and perhaps one beyond the grid."""
        first, last = np.floor(self.cells[[part.start, part.stop - 1]]).astype(int)
        return slice(first, last + 2)

    def within(self, part: slice, reach: int) -> slice:
        """The cells that pixels of the small picture lie between, within `reach` of some others."""
        near = self.small_pixels(part)
        last = len(self.small_cells) - 1
        ends = max(0, near.start - reach), min(last, near.stop - 1 + reach)
        cells = self.small_cells[[*ends]]
        return slice(int(np.floor(cells[0])), int(np.ceil(cells[1])) + 1)

    def tiles(self, part: slice) -> list[slice]:
        """Divide a part of the photograph."""
        step = max(TILE, -(-len(self.cells) // TILES))
        starts = range(part.start, part.stop, step)
        return [slice(start, min(start + step, part.stop)) for start in starts]


def _centers(pixels: int, samples: int) -> Floats:
    """The coordinates of `pixels` pixels of a side in a picture of `samples` pixels a side."""
    return (((np.arange(pixels) + 0.5) * (samples / pixels)) - 0.5).astype(np.float32)


def all_true(mask: Bools, rows: Sequence[slice], columns: Sequence[slice]) -> Bools:
    """Whether a mask, bool [H, W], is true in each pair of rows and columns: [rows, columns]."""
    counts = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), np.int64)
    counts[1:, 1:] = mask.cumsum(0).cumsum(1)
    (top, bottom), (left, right) = (
        (np.array([one.start for one in parts]), np.array([min(one.stop, side) for one in parts]))
        for parts, side in zip((rows, columns), mask.shape, strict=True)
    )
    found = counts[bottom] - counts[top]
    found = found[:, right] - found[:, left]
    whole: Bools = found == (bottom - top)[:, None] * (right - left)
    return whole


def pieces(tiles: Bools, rows: Sequence[slice], columns: Sequence[slice]) -> Iterator[Part]:
    """The true tiles, bool [rows, columns]; tiles beside each other, and equal rows, are one."""
    for line, group in groupby(range(len(rows)), key=lambda row: tiles[row].tolist()):
        down = list(group)
        for first in range(0, len(down), ROWS):
            part = slice(rows[down[first]].start, rows[down[first:][:ROWS][-1]].stop)
            at = 0
            for wanted, beside in groupby(line):
                count = len(list(beside))
                if wanted:
                    yield part, slice(columns[at].start, columns[at + count - 1].stop)
                at += count
