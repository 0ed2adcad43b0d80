"""Compositing, the heatmap overlay and the panel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from diffedit.imaging import compose, geometry
from engine.netspec import Size
from tests.imaging.pictures import BLACK, WHITE, array, cell_masks, composite, noise, photo_sizes


@given(cell_masks(), st.sampled_from([None, 0, 1, 2, 5]))
def test_pixels_outside_the_mask_are_unchanged(case: Any, feather: int | None) -> None:
    placement, factor, cells = case
    photo, edited = (noise(placement.source[0], placement.source[1], seed) for seed in (1, 2))
    mask = geometry.mask_to_photo(cells, placement, factor)
    before = photo.tobytes(), edited.tobytes(), mask.tobytes()
    result = array(composite(photo, edited, mask, feather=feather))
    outside = array(mask) == 0
    np.testing.assert_array_equal(result[outside], array(photo)[outside])
    if feather == 0:
        np.testing.assert_array_equal(result[~outside], array(edited)[~outside])
    assert (photo.tobytes(), edited.tobytes(), mask.tobytes()) == before


@given(photo_sizes)
def test_empty_and_full_masks(size: Size) -> None:
    photo, edited = (noise(size[0], size[1], seed) for seed in (1, 2))
    for value, expected in ((0, photo), (255, edited)):
        result = composite(photo, edited, Image.new("L", photo.size, value), feather=3)
        assert result is not expected
        assert result.tobytes() == expected.tobytes()


@pytest.mark.parametrize("turn", [0, 1, 2, 3])
def test_the_edit_fades_at_the_outline_but_not_at_the_photographs_edge(turn: int) -> None:
    photo, edited = (
        Image.new("RGB", (40, 20), color).rotate(90 * turn, expand=True) for color in (BLACK, WHITE)
    )
    half = np.zeros((20, 40), np.uint8)
    half[:, :20] = 255  # touches three edges of the photograph
    mask = Image.fromarray(half).rotate(90 * turn, expand=True)
    result = composite(photo, edited, mask, feather=4)
    row = array(result.rotate(-90 * turn, expand=True))[..., 0]
    assert (row == row[0]).all()
    assert (row[0, :16] == 255).all()
    assert (np.diff(row[0, 15:21].astype(int)) < 0).all()
    assert row[0, 19] > 0
    assert (row[0, 20:] == 0).all()


def test_the_default_fade_grows_with_the_photograph() -> None:
    def faded(width: int) -> int:
        photo, edited = (Image.new("RGB", (width, 8), v) for v in (BLACK, WHITE))
        mask = Image.new("L", photo.size, 0)
        mask.paste(255, (0, 0, width // 2, 8))
        values = array(composite(photo, edited, mask))[4, :, 0]
        return int(((values > 0) & (values < 255)).sum())

    assert (faded(64), faded(512), faded(2048)) == (0, 2, 8)


def test_high_values_are_red_and_low_values_blue() -> None:
    photo = Image.new("RGB", (64, 64), (120, 130, 140))
    _, placement = geometry.fit(photo, (64, 64))
    heat = np.zeros((16, 16), np.float32)
    heat[:, 8:] = 1
    over = array(compose.heatmap_overlay(photo, heat, placement, 4)).astype(int)
    red, blue = over[..., 0], over[..., 2]
    assert (red[:, 40:] > blue[:, 40:]).all()
    assert (red[:, :24] < blue[:, :24]).all()
    assert 0 < np.abs(np.diff(over.sum(axis=2), axis=1)).max() < 200  # smooth between cells


def test_the_overlay_shows_the_cells_of_the_photograph_only() -> None:
    photo = Image.new("RGB", (64, 16), (128, 128, 128))
    _, placement = geometry.fit(photo, (64, 64))
    heat = np.zeros((16, 16), np.float32)
    heat[6:10] = 1  # the cells that the photograph covers
    over = array(compose.heatmap_overlay(photo, heat, placement, 4))
    flat = array(compose.heatmap_overlay(photo, np.ones((16, 16), np.float32), placement, 4))
    np.testing.assert_array_equal(over[4:12], flat[4:12])


def test_the_overlay_accepts_nan_and_infinity() -> None:
    photo = noise(8, 8)
    _, placement = geometry.fit(photo, (8, 8))
    heat = np.array([[np.nan, np.inf], [-np.inf, 3]], np.float32)
    assert compose.heatmap_overlay(photo, heat, placement, 4).size == photo.size


def test_the_heat_colors_have_even_steps_of_lightness() -> None:
    linear = (np.array(compose.HEAT) / 255) ** 2.2
    lightness = 116 * np.cbrt(linear @ [0.2126, 0.7152, 0.0722]) - 16
    assert (np.diff(lightness) > 10).all()
    assert (np.diff(lightness) < 25).all()


def test_the_panel_shows_four_pictures_of_the_same_height(photo: Image.Image) -> None:
    colors = [(255, 0, 0), (0, 255, 0), (255, 255, 255), (0, 0, 255)]
    first, second, third, fourth = (Image.new("RGB", (960, 720), c) for c in colors)
    sheet = array(compose.panel(first, second, third.convert("L"), fourth))
    for color in colors:
        found = (sheet == color).all(axis=2)
        assert found.any(axis=1).sum() == 384
        assert found.any(axis=0).sum() == 512
    small = compose.panel(photo, photo, photo.convert("L"), photo, labels=("a", "b", "c", "d"))
    assert small.height < 500
