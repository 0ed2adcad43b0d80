"""The blend mask: the opacity of the edit at each pixel of the photograph.

The edit mask consists of latent cells of 8 pixels or more. `picture_border` draws a border inside
it that follows the edges in the picture: it fits the mask as a linear function of the colors
(`guided_filter`) on a small picture and applies the fit to the full one (He and Sun, "Fast Guided
Filter", arXiv 1505.00996). It computes only the tiles that the outline is near.
`diffedit.algorithm.mask` finds the masks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from diffedit.imaging import compose, guided_filter
from diffedit.imaging.border_tiles import Bools, Floats, Side, all_true, pieces
from diffedit.imaging.geometry import Placement
from diffedit.imaging.guided_filter import Part

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


@dataclass(frozen=True, eq=False)
class Guide:
    """A photograph that borders follow, and what they need of it whatever the mask is.

    Attributes:
        photo: RGB.
        levels: uint8 [3, h, w], the small picture that masks are fitted on.
        colors: what the fits need of it; None to compute it where it is needed, which takes less
            memory, and less time for a single mask.
    """

    photo: Image.Image
    levels: guided_filter.Levels
    colors: guided_filter.Colors | None = None

    @classmethod
    def of(cls, photo: Image.Image, placement: Placement, factor: int) -> Guide:
        """The guide of a photograph, of any size, for masks on its latent grid."""
        height, width = (max(1, round(side * SAMPLES / factor)) for side in placement.fitted)
        small = photo.resize((width, height), Image.Resampling.BOX, reducing_gap=3.0)
        return cls(photo, np.ascontiguousarray(np.asarray(small).transpose(2, 0, 1)))

    def for_many(self) -> Guide:
        """The same, for many masks."""
        whole = slice(0, self.levels.shape[1]), slice(0, self.levels.shape[2])
        colors = guided_filter.Colors.of(self.levels, RADIUS, SMOOTHNESS, whole)
        return replace(self, colors=colors)

    @property
    def nbytes(self) -> int:
        """Bytes of memory besides the photograph."""
        return self.levels.nbytes + (0 if self.colors is None else self.colors.nbytes)


def picture_border(
    guide: Guide,
    soft: Floats,
    cells: Bools,
    placement: Placement,
    factor: int,
    box: compose.Box | None = None,
) -> Image.Image:
    """Draw a soft mask of the photograph's size whose border follows the picture.

    Args:
        guide: the photograph.
        soft: float32 [h, w] in [0, 1] on the latent grid: `Shape.soft`.
        cells: bool [h, w], the cells of the mask.
        placement: position of the photograph on the canvas.
        factor: pixels of the canvas per latent cell.
        box: (left, top, right, bottom) in the photograph: what is computed; None is all of it.

    Returns: L; 255 for pixels of the edit, 0 for pixels of the photograph and outside `box`.
    """
    left, top, right, bottom = box or (0, 0, *placement.source[::-1])
    sides = [
        Side.of(side, small, pixels, factor)
        for side, small, pixels in zip(
            placement.source,
            guide.levels.shape[1:],
            (placement.rows, placement.columns),
            strict=True,
        )
    ]
    tiles = [
        side.tiles(part)
        for side, part in zip(sides, (slice(top, bottom), slice(left, right)), strict=True)
    ]
    edited, kept = _known(soft, cells, sides, tiles)
    border = np.zeros(placement.source, np.uint8)
    for part in pieces(edited, *tiles):
        border[part] = 255
    drawn = list(pieces(~(edited | kept), *tiles))
    if drawn:
        opacity = _Opacity.of(guide, soft, cells, sides, _hull(drawn))
        for part in drawn:
            border[part] = opacity.levels(part)
    return Image.fromarray(border)


def _known(
    soft: Floats, cells: Bools, sides: Sequence[Side], tiles: Sequence[Sequence[slice]]
) -> tuple[Bools, Bools]:
    """The tiles in which the border is 255 everywhere, and those in which it is 0."""
    fitted, around = (
        [[at(side, one) for one in parts] for side, parts in zip(sides, tiles, strict=True)]
        for at in (lambda side, one: side.within(one, 2 * RADIUS), Side.around)
    )
    edited = all_true(cells, *fitted) | all_true(soft >= SURE[1], *around)
    return edited, all_true(~cells, *fitted) & all_true(soft <= SURE[0], *around)


def _hull(parts: Sequence[Part]) -> Part:
    """The smallest rows and columns that hold some others."""
    rows, columns = (
        slice(min(one.start for one in along), max(one.stop for one in along))
        for along in zip(*parts, strict=True)
    )
    return rows, columns


@dataclass(frozen=True, eq=False)
class _Opacity:
    """The opacity as a linear function of the colors, at the columns of a part of the photograph.

    Attributes:
        photo: RGB.
        lines: float32 [4, h, W], for rows of the small picture: a slope for each color and the
            constant, from 0 to 255 and beyond, for colors from 0 to 255.
        sure: float32 [h, W], for rows of the latent grid: the opacity is at least this.
        rows: of the photograph.
        first: the first row of `lines`.
        left: the first column of both.
    """

    photo: Image.Image
    lines: Floats
    sure: Floats
    rows: Side
    first: int
    left: int

    @classmethod
    def of(
        cls, guide: Guide, soft: Floats, cells: Bools, sides: Sequence[Side], part: Part
    ) -> _Opacity:
        """Fit the mask for a part of the photograph."""
        y, x = sides
        rows, columns = y.small_pixels(part[0]), x.small_pixels(part[1])
        mask = interpolated(cells.astype(np.float32)[None], y.small_cells, x.small_cells)[0]
        fit = guided_filter.fit(
            guide.levels, mask, RADIUS, SMOOTHNESS, (rows, columns), guide.colors
        )
        fit[3] = (fit[3] - 0.5) * 255 + 255 / 2 * SOFTNESS
        fit *= 1 / SOFTNESS
        sure = (soft - np.float32(SURE[0])) * np.float32(255 / (SURE[1] - SURE[0]))
        lines = _along(fit, x.small[part[1]] - columns.start, 2)
        return cls(
            guide.photo, lines, _along(sure, x.cells[part[1]], 1), y, rows.start, part[1].start
        )

    def levels(self, part: Part) -> NDArray[np.uint8]:
        """The border in a part of the photograph."""
        rows, columns = part
        across = slice(columns.start - self.left, columns.stop - self.left)
        near = self.rows.small_pixels(rows)
        lines = self.lines[:, near.start - self.first : near.stop - self.first, across]
        lines = _along(lines, self.rows.small[rows] - near.start, 1)
        opacity = lines[3]
        area = columns.start, rows.start, columns.stop, rows.stop
        for line, color in zip(lines, self.photo.crop(area).split(), strict=False):
            line *= np.asarray(color)
            opacity += line
        near = self.rows.around(rows)
        sure = _along(self.sure[near, across], self.rows.cells[rows] - near.start, 0)
        np.maximum(opacity, sure, out=opacity)
        opacity.clip(0, 255, out=opacity)
        levels: NDArray[np.uint8] = np.rint(opacity, out=opacity).astype(np.uint8)
        return levels


def interpolated(values: Floats, y: Floats, x: Floats) -> Floats:
    """Values between pixels, linearly: [C, H, W] at rows y and columns x -> [C, len(y), len(x)].

    Coordinates are those of pixel centers; beyond the border the nearest pixel counts.
    """
    return _along(_along(values, x, 2), y, 1)


def _along(values: Floats, at: Floats, axis: int) -> Floats:
    """As `interpolated`, along one axis."""
    last = values.shape[axis] - 1
    at = at.clip(0, last)
    low = np.minimum(at.astype(np.int64), max(0, last - 1))
    share = (at - low).astype(np.float32)
    below = values.take(low, axis)
    result: Floats = values.take(np.minimum(low + 1, last), axis)
    result -= below
    # Repeated, since NumPy multiplies rows by one number each several times as slowly.
    shape = (len(at), 1) if axis == values.ndim - 2 else (len(at),)
    result *= np.ascontiguousarray(np.broadcast_to(share.reshape(shape), result.shape[-2:]))
    result += below
    return result
