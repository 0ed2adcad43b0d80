"""The figures of one edit, against counts done by hand and against SciPy-free definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.accuracy import mask_iou
from benchmarks.quality import measures


def square(top: int, left: int, side: int, size: int = 16) -> measures.Bools:
    mask = np.zeros((size, size), np.bool_)
    mask[top : top + side, left : left + side] = True
    return mask


def test_iou_of_shifted_squares() -> None:
    assert mask_iou(square(0, 0, 4), square(0, 0, 4)) == 1
    assert mask_iou(square(0, 0, 4), square(0, 2, 4)) == pytest.approx(8 / 24)
    assert mask_iou(square(0, 0, 4), square(8, 8, 4)) == 0
    empty = np.zeros((16, 16), np.bool_)
    assert mask_iou(empty, empty) == 1 and mask_iou(empty, square(0, 0, 1)) == 0


@given(st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_dilation_is_every_pixel_within_reach(reach: int, seed: int) -> None:
    mask = np.random.default_rng(seed).random((9, 13)) < 0.08
    grown = measures.dilate(mask, reach)
    rows, columns = np.nonzero(mask)
    for y in range(9):
        for x in range(13):
            near = np.maximum(abs(rows - y), abs(columns - x)) <= reach
            assert grown[y, x] == near.any()


def test_mask_figures_by_hand() -> None:
    region, mask = square(4, 4, 4), square(4, 4, 8)  # the mask covers it and three times as much
    found = measures.mask_figures(mask, region, cell=2)
    assert found["iou"] == pytest.approx(16 / 64)
    assert found["recall"] == 1 and found["precision"] == 0.25 and found["area_ratio"] == 4
    # grown by two pixels the region reaches 2..9, so of the mask 10 and 11 are too far
    assert found["iou_dilated"] == pytest.approx(36 / (64 + 64 - 36))
    assert found["false_area"] == pytest.approx((64 - 36) / 256)


def test_an_empty_mask_has_no_precision_and_no_recall() -> None:
    found = measures.mask_figures(np.zeros((16, 16), np.bool_), square(0, 0, 4), cell=4)
    assert found["recall"] == found["precision"] == found["area_ratio"] == 0


def test_picture_figures_see_each_pixel_where_it_is() -> None:
    before = np.full((16, 16, 3), 100, np.uint8)
    after, mask = before.copy(), square(0, 0, 4)
    after[:4, :4] = 200  # the edit
    after[8, 8] = (103, 104, 100)  # and one pixel that should have been left alone
    found = measures.picture_figures(before, after, mask, outside=~square(0, 0, 8))
    assert found["equal"] == pytest.approx(1 - 17 / 256)
    assert found["changed_outside_mask"] == 1
    assert found["mse_outside_mask"] == pytest.approx((9 + 16) / 3 / 240)
    assert found["mse_background"] == pytest.approx((9 + 16) / 3 / 192)


def test_without_a_mask_there_is_nothing_outside_it() -> None:
    picture = np.zeros((16, 16, 3), np.uint8)
    found = measures.picture_figures(picture, picture, None, np.ones((16, 16), np.bool_))
    assert set(found) == {"equal", "mse_background"} and found["equal"] == 1


def test_differences_do_not_wrap_around() -> None:
    """255 - 0 as bytes would be -1."""
    black, white = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)
    where = np.ones((2, 2), np.bool_)
    assert measures.squared_error(black, white, where) == 255**2
    assert np.isnan(measures.squared_error(black, white, ~where))


def test_decibels() -> None:
    assert measures.decibel(255.0**2) == pytest.approx(0)
    assert measures.decibel(255.0**2 / 1000) == pytest.approx(30)
    assert measures.decibel(0.0) == pytest.approx(99)


def test_leak_and_miss_are_shares_of_what_should_not_and_should_change() -> None:
    blend = np.zeros((4, 4), np.uint8)
    blend[:2] = 255
    blend[2, :] = 51  # a fifth
    region = np.zeros((4, 4), bool)
    region[1:3] = True
    outside = np.zeros((4, 4), bool)
    outside[0, :2] = outside[3] = True
    found = measures.blend_figures(blend, region, outside)
    assert found["leak"] == pytest.approx(2 / 6)
    assert found["miss"] == pytest.approx(1 - (1 + 0.2) / 2)


def test_a_seam_is_the_gradient_along_the_border_of_the_blend_mask() -> None:
    blend = np.zeros((9, 9), np.uint8)
    blend[:, :4] = 255
    ideal = np.full((9, 9, 3), 100, np.uint8)
    after = ideal.copy()
    after[:, :4] = 140  # a step of 40 exactly at the border
    found = measures.seam_figures(after, ideal, blend)
    assert found == {"seam": 20.0, "seam_ideal": 0.0}  # columns 3 and 4; the step lies in one
    after[:, 7:] = 0  # far from the border
    assert measures.seam_figures(after, ideal, blend) == found
    nothing = measures.seam_figures(after, ideal, np.zeros_like(blend))
    assert np.isnan(nothing["seam"]) and np.isnan(nothing["seam_ideal"])
