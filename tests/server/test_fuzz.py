"""Damaged images are either decoded or refused with a documented error."""

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
from diffedit.server.errors import ApiError, to_api_error
from diffedit.server.forms import EditForm
from diffedit.server.settings import Settings
from tests.server.helpers import encoded

LIMITS = Settings(max_pixels=20_000)
FILES = [
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


def damaged(file: bytes, changes: list[tuple[int, int]], cut: int) -> bytes:
    """Overwrite some bytes and remove `cut` bytes from the end."""
    data = bytearray(file)
    for offset, value in changes:
        data[offset % len(data)] = value
    return bytes(data[: len(data) - cut % len(data)])


@settings(max_examples=300)
@given(st.sampled_from(FILES), CHANGES, st.integers(0, 4000), st.booleans())
@example(FILES[0], [(16, 255), (17, 255)], 0, False)  # a width of billions
def test_damaged_image_is_decoded_or_refused(
    file: bytes, changes: list[tuple[int, int]], cut: int, as_mask: bool
) -> None:
    data = damaged(file, changes, cut)
    image, mask = (FILES[0], data) if as_mask else (data, None)
    form = EditForm(image, mask, {"prompt": "a ball"})
    try:
        image_codec.check_headers(form, LIMITS)
        decoded = image_codec.decode_form(form, LIMITS)
    except (ApiError, InvalidRequest) as error:
        response = to_api_error(error)
        assert 400 <= response.status < 500
        assert response.message.endswith((".", "?"))
        return
    width, height = decoded.photo.size
    assert width * height <= LIMITS.max_pixels


@settings(max_examples=100)
@given(st.binary(max_size=300))
def test_random_bytes_pass_the_header_check_only_if_pil_opens_them(data: bytes) -> None:
    with contextlib.suppress(ApiError):
        image_codec.check_header(data, "image", LIMITS)
        Image.open(io.BytesIO(data))


def test_damaged_mask_of_another_size_is_refused() -> None:
    """Applying the EXIF orientation decodes the whole mask."""
    mask = encoded(still_life(20, 30))
    form = EditForm(FILES[0], mask[: len(mask) // 2], {"prompt": "a ball"})
    image_codec.check_headers(form, LIMITS)
    with pytest.raises(InvalidRequest, match="damaged"):
        image_codec.decode_form(form, LIMITS)
