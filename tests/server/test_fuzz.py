"""Damaged pictures and forms: refused by name or read, never anything else."""

from __future__ import annotations

import contextlib
import io

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from demo.picture import still_life
from diffedit.request import InvalidRequest
from diffedit.server import image_codec
from diffedit.server.errors import ApiError, api_error
from diffedit.server.forms import EditForm
from diffedit.server.settings import Settings
from tests.server.kit import encoded

LIMITS = Settings(max_pixels=20_000)
WHOLE = [
    encoded(still_life(48, 36)),
    encoded(still_life(48, 36), "JPEG"),
    encoded(still_life(48, 36), "WEBP"),
    encoded(still_life(48, 36).convert("LA")),
    encoded(still_life(48, 36).quantize(8), transparency=0),
    encoded(still_life(48, 36).convert("CMYK"), "JPEG"),
    encoded(still_life(48, 36), "PNG", interlace=1),
    encoded(still_life(48, 36), "JPEG", progressive=True),
    encoded(still_life(48, 36), "WEBP", lossless=True),
]
CHANGES = st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=12)


def damaged(whole: bytes, changes: list[tuple[int, int]], cut: int) -> bytes:
    data = bytearray(whole)
    for place, value in changes:
        data[place % len(data)] = value
    return bytes(data[: len(data) - cut % len(data)])


@settings(max_examples=300)
@given(st.sampled_from(WHOLE), CHANGES, st.integers(0, 4000), st.booleans())
@example(WHOLE[0], [(16, 255), (17, 255)], 0, False)  # a width of billions
def test_a_damaged_picture_is_refused_or_read(
    whole: bytes, changes: list[tuple[int, int]], cut: int, as_mask: bool
) -> None:
    data = damaged(whole, changes, cut)
    image, mask = (WHOLE[0], data) if as_mask else (data, None)
    order = EditForm(image, mask, {"prompt": "a ball"})
    try:
        image_codec.check_order(order, LIMITS)
        opened = image_codec.open_order(order, LIMITS)
    except (ApiError, InvalidRequest) as error:
        told = api_error(error)
        assert 400 <= told.status < 500
        assert told.message.endswith((".", "?"))
        return
    assert opened.photo.mode == "RGB"
    assert opened.photo.width * opened.photo.height <= LIMITS.max_pixels


@settings(max_examples=100)
@given(st.binary(max_size=300))
def test_no_bytes_are_taken_for_a_picture(data: bytes) -> None:
    with contextlib.suppress(ApiError):
        image_codec.check_header(data, "image", LIMITS)
        Image.open(io.BytesIO(data))  # what passed is one for PIL too


def test_a_damaged_mask_of_another_size_is_refused() -> None:
    """Its size is looked at upright, and so all of it is read."""
    mask = encoded(still_life(20, 30))
    order = EditForm(WHOLE[0], mask[: len(mask) // 2], {"prompt": "a ball"})
    image_codec.check_order(order, LIMITS)
    with pytest.raises(ApiError, match="damaged"):
        image_codec.open_order(order, LIMITS)
