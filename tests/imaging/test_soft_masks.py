"""Soft masks: which are soft, 16 bits, and what a record keeps of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from diffedit.imaging import geometry
from diffedit.imaging.mask_reader import MaskRules, read_mask, stored_mask
from diffedit.imaging.metadata import pack_mask
from diffedit.request import InvalidRequest
from tests.imaging.pictures import fitted_photos, saved

SIZE = (40, 30)
RAMP = np.tile(np.linspace(0, 1, 40), (30, 1))
SIXTEEN = (RAMP * 65535).round().astype(np.uint16)


def png16(values: np.ndarray[Any, Any]) -> bytes:
    return saved(Image.fromarray(values), "PNG")


@pytest.mark.parametrize(
    "source",
    [RAMP, SIXTEEN, png16(SIXTEEN), (RAMP * 255).round().astype(np.uint8)],
    ids=["fractions", "array of 16 bits", "PNG of 16 bits", "8 bits"],
)
def test_all_number_types_give_the_same_soft_mask(source: Any) -> None:
    mask = read_mask(source, SIZE)
    assert mask.soft is not None
    values = np.asarray(mask.soft).astype(int)
    assert np.abs(values - RAMP * 255).max() <= 8 and len(np.unique(values)) > 30


@pytest.mark.parametrize("high", [1, 255, 65535])
def test_black_and_white_is_not_soft(high: int) -> None:
    source: Any = (RAMP > 0.3).astype(np.uint16) * high
    mask = read_mask(source, SIZE)
    assert mask.soft is None and mask.warnings == () and mask.area is mask.image


def test_black_edits_with_soft_masks_too() -> None:
    picture = Image.fromarray((RAMP * 255).astype(np.uint8))
    white = read_mask(picture, SIZE)
    black = read_mask(Image.eval(picture, lambda v: 255 - v), SIZE, rules=MaskRules("black"))
    assert white.soft is not None and black.soft == white.soft


@pytest.mark.parametrize("source", [RAMP, (RAMP > 0.5).astype(np.uint8)], ids=["soft", "hard"])
def test_a_stored_mask_is_read_as_it_was(source: Any) -> None:
    mask = read_mask(source, SIZE)
    again = stored_mask(pack_mask(mask), SIZE)
    assert again.image == mask.image and again.soft == mask.soft and again.warnings == ()
    larger = stored_mask(pack_mask(mask), (80, 60))
    assert larger.image.size == (80, 60) and (larger.soft is None) == (mask.soft is None)
    with pytest.raises(InvalidRequest, match="aspect ratio"):
        stored_mask(pack_mask(mask), (30, 40))


@given(placed=fitted_photos(), seed=st.integers(0, 1000))
def test_a_cell_has_the_level_of_its_lightest_pixel(placed: Any, seed: int) -> None:
    photo, _, placement, factor = placed
    values = np.random.default_rng(seed).integers(0, 256, photo.size[::-1], dtype=np.uint8)
    mask = Image.fromarray(values)
    levels = geometry.latent_levels(mask, placement, factor)
    shown = levels > 0
    pixels = np.asarray(geometry.mask_to_photo(shown, placement, factor)) > 0
    assert pixels[values > 0].all(), "every pixel that takes some of the edit is in a cell"
    assert levels.max() == values.max() / np.float32(255)
    area = mask.point([0] + [255] * 255)
    assert not (shown & ~geometry.latent_mask(area, placement, factor)).any()
