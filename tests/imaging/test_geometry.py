"""Geometry, mostly as properties: fitting, masks, and the choice of the canvas."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from demo.picture import still_life
from diffedit.imaging import compose, geometry
from engine.netspec import Size
from tests.imaging.pictures import (
    BLACK,
    WHITE,
    array,
    canvases,
    cell_masks,
    composite,
    fitted_photos,
    noise,
    photo_sizes,
)


@given(fitted_photos())
def test_fit_centers_the_photograph_and_keeps_its_aspect_ratio(case: Any) -> None:
    photo, values, placement, _ = case
    assert values.shape == (3, *placement.canvas)
    assert values.dtype == np.float32
    assert values.flags["C_CONTIGUOUS"]
    assert -1 <= values.min() <= values.max() <= 1
    assert placement.source == (photo.height, photo.width)
    assert any(placement.fitted[i] == placement.canvas[i] for i in (0, 1))
    for i, start in enumerate((placement.top, placement.left)):
        rest = placement.canvas[i] - placement.fitted[i]
        assert 0 <= start <= rest - start <= start + 1
        other = 1 - i
        exact = placement.source[i] * placement.fitted[other] / placement.source[other]
        assert (
            placement.fitted[i] == placement.canvas[i]
            or abs(placement.fitted[i] - exact) <= 0.5
            or placement.fitted[i] == 1
        )


@given(fitted_photos())
def test_fit_fills_the_canvas_with_reflections(case: Any) -> None:
    _, values, placement, _ = case

    def mirrored(size: int, start: int, length: int) -> NDArray[np.int64]:
        at = (np.arange(size) - start) % (2 * length)
        return start + np.where(at < length, at, 2 * length - 1 - at)

    rows = mirrored(placement.canvas[0], placement.top, placement.fitted[0])
    columns = mirrored(placement.canvas[1], placement.left, placement.fitted[1])
    np.testing.assert_array_equal(values, values[:, rows][:, :, columns])


@given(photo_sizes, canvases())
def test_a_photograph_of_the_canvas_size_is_restored_exactly(size: Size, case: Any) -> None:
    canvas, _ = case
    inner = canvas[0], min(size[1], canvas[1])
    photo = noise(*inner)
    values, placement = geometry.fit(photo, canvas)
    if placement.fitted == inner:
        np.testing.assert_array_equal(array(geometry.to_photo(values, placement)), array(photo))


def test_pixels_are_scaled_to_minus_one_to_one() -> None:
    photo = Image.fromarray(np.array([[BLACK, WHITE]], np.uint8))
    values, _ = geometry.fit(photo, (1, 2))
    np.testing.assert_array_equal(values, [[[-1, 1]]] * 3)


@pytest.mark.parametrize("size", [(1, 1), (5000, 1), (1, 5000), (3, 2000), (7, 5)])
def test_extreme_photographs(size: Size) -> None:
    photo = noise(*size)
    values, placement = geometry.fit(photo, (64, 96))
    assert np.isfinite(values).all()
    inside = geometry.region(placement, 8)
    mask = geometry.mask_to_photo(inside, placement, 8)
    assert mask.getextrema() == (255, 255)
    edited = geometry.to_photo(values, placement)
    assert edited.size == photo.size
    result = composite(photo, edited, mask)
    overlay = compose.heatmap_overlay(photo, inside.astype(np.float32), placement, 8)
    assert overlay.size == photo.size
    sheet = compose.panel(photo, overlay, mask, result)
    assert sheet.width < 4000
    assert sheet.height < 500


def test_a_smooth_photograph_survives_resizing_there_and_back() -> None:
    photo = still_life(150, 100)
    values, placement = geometry.fit(photo, (128, 128))
    back = array(geometry.to_photo(values, placement)).astype(int)
    assert np.abs(back - array(photo)).mean() < 3


def test_to_photo_clips_values_out_of_range() -> None:
    _, placement = geometry.fit(noise(2, 2), (2, 2))
    image = np.array([[[-3, 3], [-1.001, 1.001]]] * 3, np.float32)
    np.testing.assert_array_equal(
        array(geometry.to_photo(image, placement))[..., 0], [[0, 255], [0, 255]]
    )


@given(fitted_photos())
def test_the_region_is_the_cells_of_the_photograph(case: Any) -> None:
    _, _, placement, factor = case
    inside = geometry.region(placement, factor)
    covered = np.zeros(placement.canvas, bool)
    covered[
        placement.top : placement.top + placement.fitted[0],
        placement.left : placement.left + placement.fitted[1],
    ] = True
    rows, columns = placement.cells(factor)
    cells = covered.reshape(rows, factor, columns, factor).any(axis=(1, 3))
    np.testing.assert_array_equal(inside, cells)
    assert geometry.mask_to_photo(inside, placement, factor).getextrema() == (255, 255)
    assert geometry.mask_to_photo(~inside, placement, factor).getextrema() == (0, 0)


@given(fitted_photos())
def test_full_and_empty_masks(case: Any) -> None:
    photo, _, placement, factor = case
    white, black = (Image.new("L", photo.size, v) for v in (255, 0))
    np.testing.assert_array_equal(
        geometry.latent_mask(white, placement, factor), geometry.region(placement, factor)
    )
    assert not geometry.latent_mask(black, placement, factor).any()
    ones = np.ones(placement.cells(factor), bool)
    assert geometry.mask_to_photo(ones, placement, factor).getextrema() == (255, 255)
    assert geometry.mask_to_photo(~ones, placement, factor).getextrema() == (0, 0)


@given(cell_masks())
def test_a_pixel_is_edited_if_the_cell_of_its_center_is(case: Any) -> None:
    placement, factor, mask = case

    def cells(i: int, start: int) -> list[int]:
        scale = Fraction(placement.fitted[i], placement.source[i])
        return [
            int(start + (Fraction(n) + half) * scale) // factor for n in range(placement.source[i])
        ]

    half = Fraction(1, 2)
    expected = mask[np.ix_(cells(0, placement.top), cells(1, placement.left))]
    found = array(geometry.mask_to_photo(mask, placement, factor))
    np.testing.assert_array_equal(found, np.where(expected, 255, 0))


@given(canvases(), st.integers(1, 3), st.integers(0, 2**32))
def test_a_cell_mask_survives_conversion_to_the_photograph_and_back(
    case: Any, zoom: int, seed: int
) -> None:
    canvas, factor = case
    _, placement = geometry.fit(noise(canvas[0] * zoom, canvas[1] * zoom), canvas)
    mask = np.random.default_rng(seed).random(placement.cells(factor)) < 0.5
    picture = geometry.mask_to_photo(mask, placement, factor)
    np.testing.assert_array_equal(geometry.latent_mask(picture, placement, factor), mask)


def test_a_cell_is_edited_if_any_of_its_pixels_is_white() -> None:
    _, placement = geometry.fit(noise(4, 8), (4, 8))
    mask = np.zeros((4, 8), np.uint8)
    mask[2, 4] = 255  # one pixel of the second cell
    found = geometry.latent_mask(Image.fromarray(mask), placement, 4)
    np.testing.assert_array_equal(found, [[False, True]])


def test_a_pixel_between_two_cells_belongs_to_the_cell_of_its_center() -> None:
    """Three rows on two cells: a box filter assigns the middle row to the upper cell only."""
    photo = Image.new("RGB", (2, 3))
    _, placement = geometry.fit(photo, (2, 1))
    white = Image.fromarray(np.array([[0, 0], [255, 255], [0, 0]], np.uint8))
    edited = array(geometry.mask_to_photo(geometry.latent_mask(white, placement, 1), placement, 1))
    assert (edited[1] == 255).all()


@given(fitted_photos(), st.integers(0, 2**32), st.floats(0.001, 0.5))
def test_every_white_pixel_is_in_an_edited_cell(case: Any, seed: int, share: float) -> None:
    photo, _, placement, factor = case
    random = np.random.default_rng(seed)
    mask = np.where(random.random(photo.size[::-1]) < share, 255, 0).astype(np.uint8)
    cells = geometry.latent_mask(Image.fromarray(mask), placement, factor)
    edited = array(geometry.mask_to_photo(cells, placement, factor))
    assert (edited[mask == 255] == 255).all()


def test_a_cell_at_the_border_depends_on_the_photograph_only() -> None:
    photo = Image.new("L", (8, 2), 255)  # two rows, in the middle of cells of four pixels
    _, placement = geometry.fit(photo.convert("RGB"), (8, 8))
    assert (placement.top, placement.fitted) == (3, (2, 8))
    np.testing.assert_array_equal(geometry.latent_mask(photo, placement, 4), [[True, True]] * 2)


@pytest.mark.parametrize(
    ("photo", "expected"),
    [
        ((512, 512), (512, 512)),
        ((3000, 4000), (448, 576)),
        ((4000, 3000), (576, 448)),
        ((400, 600), (448, 640)),
        ((1080, 1920), (384, 704)),
        ((1, 1), (512, 512)),
        ((5000, 1), (4096, 64)),
        ((1, 5000), (64, 4096)),
    ],
)
def test_a_free_canvas_has_the_aspect_ratio_of_the_photograph(photo: Size, expected: Size) -> None:
    assert geometry.choose_size(photo, None, 512, 8) == expected


@given(photo_sizes, st.sampled_from([(64, 4), (128, 4), (512, 8), (768, 8), (16, 8)]))
def test_a_free_canvas_has_whole_cells_and_about_the_native_area(
    photo: Size, model: tuple[int, int]
) -> None:
    native, factor = model
    height, width = geometry.choose_size(photo, None, native, factor)
    assert height % (8 * factor) == width % (8 * factor) == 0
    assert min(height, width) >= 8 * factor
    area = max(native, 8 * factor) ** 2
    assert 0.5 <= height * width / area <= 2


@given(photo_sizes)
def test_portrait_and_landscape_get_canvases_of_the_same_area(photo: Size) -> None:
    height, width = geometry.choose_size(photo, None, 512, 8)
    turned = geometry.choose_size(photo[::-1], None, 512, 8)
    assert height * width == turned[0] * turned[1]


@pytest.mark.parametrize(
    ("photo", "expected"),
    [
        ((400, 600), (512, 768)),
        ((600, 400), (768, 512)),
        ((64, 64), (1024, 1024)),  # both squares are fully covered: the larger one is chosen
        ((500, 520), (1024, 1024)),
        ((10, 1000), (512, 768)),
    ],
)
def test_the_compiled_size_with_the_best_coverage_is_chosen(photo: Size, expected: Size) -> None:
    sizes = [(512, 512), (512, 768), (1024, 1024), (768, 512)]
    assert geometry.choose_size(photo, sizes, 512, 8) == expected
    assert geometry.choose_size(photo, sizes[::-1], 512, 8) == expected


def test_rounding_to_pixels_does_not_affect_the_choice() -> None:
    assert geometry.choose_size((333, 500), [(1024, 1024), (512, 512)], 512, 8) == (1024, 1024)
    assert geometry.choose_size((667, 1000), [(512, 512), (1024, 1024)], 512, 8) == (1024, 1024)
