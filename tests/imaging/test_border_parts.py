"""Borders that are computed in part equal those of the whole picture to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from diffedit.imaging import border_tiles, borders, geometry, guided_filter
from diffedit.imaging.border_tiles import Bools
from diffedit.imaging.borders import Guide
from diffedit.imaging.geometry import Placement
from diffedit.imaging.guided_filter import Part
from tests.imaging.test_parts import SIZES, boxes

MASKS = ("blobs", "noise", "edge", "frame", "one cell", "empty", "full")
KINDS = [(mask, *size, factor) for mask in MASKS for size in SIZES[:4] for factor in (4, 8)]


def photograph(size: tuple[int, int], seed: int = 2) -> Image.Image:
    draw = np.random.default_rng(seed)
    noise = Image.fromarray(draw.integers(0, 256, (*size, 3), np.uint8))
    return noise.reduce(5).resize(size[::-1])


def masks(kind: str, placement: Placement, factor: int) -> tuple[np.ndarray, Bools]:
    """A soft map and the cells of its mask; some cells are in the mask with low values, and some
    outside with high ones, as after filling holes, enlarging and dropping specks."""
    region = geometry.region(placement, factor)
    height, width = region.shape
    draw = np.random.default_rng(height * width + len(kind))
    noise = draw.random(region.shape)
    cells = np.zeros(region.shape, np.bool_)
    if kind == "blobs":
        cells = ndimage.gaussian_filter(noise, 2) > 0.5
    elif kind == "noise":
        cells = noise > 0.4
    elif kind == "edge":
        cells[height // 2 :, : width // 3] = True
    elif kind == "frame":
        cells[:] = True
        cells[height // 3 : height // 2, width // 3 : width // 2] = False
    elif kind == "one cell":
        cells[height // 2, width // 2] = True
    elif kind == "full":
        cells[:] = True
    cells &= region
    soft = np.where(cells, 0.5 + 0.5 * noise, 0.5 * noise)
    swapped = draw.random(region.shape) > 0.97
    return np.where(swapped, 1 - soft, soft).astype(np.float32), cells


@pytest.mark.parametrize(("kind", "source", "canvas", "factor"), KINDS)
def test_tiles_away_from_the_outline_have_the_values_that_the_fit_gives(
    kind: str,
    source: tuple[int, int],
    canvas: tuple[int, int],
    factor: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    placement = geometry.place(source, canvas)
    guide = Guide.of(photograph(source), placement, factor)
    soft, cells = masks(kind, placement, factor)
    monkeypatch.setattr(border_tiles, "TILE", 16)
    monkeypatch.setattr(border_tiles, "TILES", 1000)
    tiled = borders.picture_border(guide, soft, cells, placement, factor)
    kept = borders.picture_border(guide.for_many(), soft, cells, placement, factor)
    assert kept.tobytes() == tiled.tobytes()

    def nothing(mask: Bools, rows: list[slice], columns: list[slice]) -> Bools:
        return np.zeros((len(rows), len(columns)), np.bool_)

    monkeypatch.setattr(borders, "all_true", nothing)
    monkeypatch.setattr(border_tiles, "TILE", 10_000)
    whole = borders.picture_border(guide, soft, cells, placement, factor)
    assert tiled.tobytes() == whole.tobytes()


@pytest.mark.parametrize("kind", ["blobs", "edge"])
@pytest.mark.parametrize("factor", [4, 8])
@pytest.mark.parametrize(("source", "canvas"), SIZES[:4])
def test_a_part_of_a_border(
    kind: str, source: tuple[int, int], canvas: tuple[int, int], factor: int
) -> None:
    placement = geometry.place(source, canvas)
    guide = Guide.of(photograph(source), placement, factor)
    soft, cells = masks(kind, placement, factor)
    whole = borders.picture_border(guide.for_many(), soft, cells, placement, factor)
    for box in boxes(*source):
        part = borders.picture_border(guide, soft, cells, placement, factor, box)
        assert part.crop(box).tobytes() == whole.crop(box).tobytes(), box
        part.paste(0, box)
        assert part.getbbox() is None


def test_a_part_of_a_fit_is_that_of_the_whole_picture() -> None:
    draw = np.random.default_rng(5)
    levels = draw.integers(0, 256, (3, 90, 70), np.uint8)
    mask = draw.random((90, 70), np.float32)
    whole = guided_filter.fit(levels, mask, 7, 0.01)
    for left, top, right, bottom in boxes(90, 70):
        part = slice(top, bottom), slice(left, right)
        found = guided_filter.fit(levels, mask, 7, 0.01, part)
        assert found.tobytes() == whole[:, part[0], part[1]].tobytes()


@pytest.mark.parametrize("value", [0, 1])
def test_the_fit_of_an_even_mask_is_the_mask(value: int) -> None:
    """Exactly, so that tiles far from the outline need no fit."""
    draw = np.random.default_rng(6)
    levels = draw.integers(0, 256, (3, 40, 40), np.uint8)
    mask = np.full((40, 40), value, np.float32)
    mask[:5] = 1 - value
    fit = guided_filter.fit(levels, mask, 4, 0.01)[:, 5 + 8 :]
    assert (fit[:3] == 0).all() and (fit[3] == value).all()


def test_only_tiles_near_the_outline_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask of the left half: 2 x 9 cells around its outline, and the rest of their tiles."""
    placement = Placement((512, 512), (512, 512), (512, 512), 0, 0)
    cells = np.zeros((64, 64), np.bool_)
    cells[:, :32] = True
    drawn: list[Part] = []
    levels = borders._Opacity.levels

    def watched(self: borders._Opacity, part: Part) -> np.ndarray:
        drawn.append(part)
        return levels(self, part)

    monkeypatch.setattr(borders._Opacity, "levels", watched)
    guide = Guide.of(photograph((512, 512)), placement, 8)
    soft = np.where(cells, np.float32(0.55), np.float32(0.1))
    borders.picture_border(guide, soft, cells, placement, 8)
    assert {(part[1].start, part[1].stop) for part in drawn} == {(192, 320)}
    borders.picture_border(guide, soft, np.ones_like(cells), placement, 8)
    assert {part[1].stop for part in drawn} == {320}, "a full mask has no outline"


def test_inverses_are_those_of_lapack() -> None:
    samples = np.random.default_rng(3).random((50, 3, 20))
    matrices = samples @ samples.transpose(0, 2, 1) / 20 + 0.01 * np.eye(3)
    entries = np.stack([matrices[:, i, j] for i, j in guided_filter.PAIRS])
    inverse = np.linalg.inv(matrices)
    expected = np.stack([inverse[:, i, j] for i, j in guided_filter.PAIRS])
    found = guided_filter.inverse(entries[None])[0]
    np.testing.assert_allclose(found, expected, rtol=1e-10)
