"""Edits in photographs of every kind: outside the mask, the file's own values are kept."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from diffedit.imaging import borders, compare, encode, photograph, png
from tests.imaging.edited import (
    GREEN,
    LINEAR,
    MASK,
    OUTSIDE,
    SIZE,
    deep_values,
    edit,
    gamma_info,
    gradient,
    with_alpha,
    written,
)
from tests.imaging.pictures import array, saved
from tests.imaging.profiles import P3, grey_profile

EXACT = {
    "RGB": saved(gradient("RGB"), "PNG"),
    "RGBA": saved(with_alpha("RGB"), "PNG"),
    "L": saved(gradient("L"), "PNG"),
    "LA": saved(with_alpha("L"), "PNG"),
    "JPEG": saved(gradient("RGB"), "JPEG"),
    "grey JPEG": saved(gradient("L"), "JPEG"),
    "WebP with alpha": saved(with_alpha("RGB"), "WEBP", lossless=True, exact=True),
    "Display P3": saved(gradient("RGB"), "PNG", icc_profile=P3),
    "Display P3 as JPEG": saved(gradient("RGB"), "JPEG", icc_profile=P3),
    "Display P3 with alpha": saved(with_alpha("RGB"), "PNG", icc_profile=P3),
    "linear": saved(gradient("RGB"), "TIFF", icc_profile=LINEAR),
    "grey profile": saved(gradient("L"), "PNG", icc_profile=grey_profile(1.8)),
    "grey profile with alpha": saved(with_alpha("L"), "PNG", icc_profile=grey_profile(1.8)),
    "gamma of PNG": saved(gradient("RGB"), "PNG", pnginfo=gamma_info(1.0)),
    "BMP": saved(gradient("RGB"), "BMP"),
}


@pytest.mark.parametrize("kind", EXACT)
def test_values_outside_the_mask_are_the_files_own(kind: str) -> None:
    original = Image.open(io.BytesIO(EXACT[kind]))
    photo, result = edit(EXACT[kind])
    image = written(result)
    assert image.mode == original.mode == result.image.mode
    for found in (image, result.image):
        np.testing.assert_array_equal(array(found)[OUTSIDE], array(original)[OUTSIDE])
        assert (array(found)[~OUTSIDE] != array(original)[~OUTSIDE]).any()
        assert found.info.get("icc_profile") == original.info.get("icc_profile")
    assert image.info.get("gamma") == original.info.get("gamma")
    assert photo.warnings == ()
    assert compare.largest_difference(photo, result, MASK.point(lambda v: 255 - v)) == 0
    assert compare.largest_difference(photo, result) > 0


@pytest.mark.parametrize("kind", EXACT)
def test_the_edit_has_its_colors_in_every_color_space(kind: str) -> None:
    """Read again as sRGB, the middle of the box is green, or as bright where the file is grey."""
    _, result = edit(EXACT[kind], fill=True)
    again = photograph.read(encode.encode(result, "PNG"))
    expected = GREEN if again.base_mode == "RGB" else GREEN.convert("L").convert("RGB")
    assert np.abs(array(again.rgb)[20, 25].astype(int) - array(expected)[20, 25]).max() <= 3


def test_palettes_keep_their_colors() -> None:
    picture = gradient("RGB").quantize(16)
    for data, mode in (
        (saved(picture, "PNG"), "RGB"),
        (saved(picture, "GIF"), "RGB"),
        (saved(picture, "PNG", transparency=b"\xff\x00\x80"), "RGBA"),
        (saved(gradient("1"), "PNG"), "L"),
    ):
        original = Image.open(io.BytesIO(data)).convert(mode)
        _, result = edit(data)
        assert result.image.mode == mode
        np.testing.assert_array_equal(array(result.image)[OUTSIDE], array(original)[OUTSIDE])


def test_a_transparent_color_becomes_an_alpha_channel() -> None:
    picture = gradient("RGB")
    color = picture.getpixel((0, 0))
    _, result = edit(saved(picture, "PNG", transparency=color))
    assert result.image.mode == "RGBA"
    np.testing.assert_array_equal(array(result.image)[OUTSIDE][:, :3], array(picture)[OUTSIDE])
    assert result.image.getpixel((0, 0)) == (*color, 0)  # type: ignore[misc]


TWO: dict[str, Any] = {"save_all": True, "append_images": [GREEN]}
LOSSES: dict[str, tuple[Any, str]] = {
    "CMYK": (gradient("CMYK"), "mode CMYK"),
    "LAB": (ImageCms.profileToProfile(
        gradient("RGB"), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"),
        outputMode="LAB"), "mode LAB"),
    "YCbCr": (gradient("YCbCr"), "mode YCbCr"),
    "animated GIF": (saved(gradient("P"), "GIF", **TWO), "2 frames or pages"),
    "animated WebP": (saved(gradient("RGB"), "WEBP", **TWO), "2 frames or pages"),
    "TIFF of two pages": (saved(gradient("RGB"), "TIFF", **TWO), "2 frames or pages"),
    "PPM of 16 bits": (b"P6 64 48 65535\n" + deep_values(3).astype(">u2").tobytes(), "8 bits"),
    "MPO": (saved(gradient("RGB"), "MPO", **TWO), "2 frames or pages"),
    "damaged profile": (saved(gradient("RGB"), "PNG", icc_profile=b"no profile"), "is damaged"),
    "zeros as profile": (saved(gradient("RGB"), "PNG", icc_profile=bytes(200)), "is damaged"),
    "grey profile": (saved(gradient("RGB"), "JPEG", icc_profile=grey_profile(2.2)), "GRAY pixels"),
    "RGB profile": (saved(gradient("L"), "JPEG", icc_profile=P3), "RGB pixels"),
    "a large profile": (
        saved(gradient("RGB"), "JPEG", icc_profile=P3 + bytes(2**21)), "cannot be converted back"),
}  # fmt: skip


@pytest.mark.parametrize("kind", LOSSES)
def test_one_warning_names_what_is_lost(kind: str) -> None:
    source, words = LOSSES[kind]
    photo, result = edit(source)
    (warning,) = photo.warnings
    assert words in warning
    assert warning.endswith(".")
    outside = MASK.point(lambda v: 255 - v)
    assert compare.largest_difference(photo, result, outside) == 0
    assert written(result).size == SIZE


def test_formats_that_hold_less_say_so() -> None:
    deep = edit(png.encode(deep_values(4)))[1]
    clear = edit(EXACT["RGBA"])[1]
    grey = edit(EXACT["grey profile"])[1]
    gamma = edit(EXACT["gamma of PNG"])[1]
    assert [encode.losses(p, "PNG") for p in (deep, clear, grey, gamma)] == [[]] * 4
    assert ["16" in s for s in encode.losses(deep, "WEBP")] == [True]
    assert ["transparency" in s for s in encode.losses(clear, "JPEG")] == [True]
    assert ["gamma" in s for s in encode.losses(gamma, "JPEG")] == [True]
    assert ["grey profiles" in s for s in encode.losses(grey, "WEBP")] == [True]
    jpeg = Image.open(io.BytesIO(encode.encode(clear, "JPEG")))
    assert np.abs(array(jpeg).astype(int) - array(clear.rgb)).mean() < 12


@pytest.mark.parametrize("file_format", ["JPEG", "WEBP", "TIFF", "PNG"])
def test_every_format_keeps_the_profile(file_format: encode.FileFormat) -> None:
    data = encode.encode(edit(EXACT["Display P3"])[1], file_format)
    with Image.open(io.BytesIO(data)) as image:
        assert image.info["icc_profile"] == P3
        assert image.format == file_format
        if file_format != "JPEG":
            expected = array(Image.open(io.BytesIO(EXACT["Display P3"])))
            np.testing.assert_array_equal(array(image)[OUTSIDE], expected[OUTSIDE])


def test_lossless_webp_keeps_the_colors_of_transparent_pixels() -> None:
    picture = gradient("RGB")
    picture.putalpha(0)
    data = encode.encode(photograph.read(picture), "WEBP")
    assert Image.open(io.BytesIO(data)).tobytes() == picture.tobytes()


def test_transparency_stays_or_is_filled() -> None:
    clear = gradient("RGB")
    clear.putalpha(MASK.point(lambda v: 255 - v))
    photo, kept = edit(clear)
    assert kept.image.getchannel("A").tobytes() == clear.getchannel("A").tobytes()
    assert compare.hidden_share(photo, MASK) == 1
    large = Image.new("RGB", (1024, 768), "red")  # wide enough for a fade at the outline
    hole = MASK.resize(large.size, Image.Resampling.NEAREST)
    large.putalpha(hole.point(lambda v: 255 - v))
    photo = photograph.read(large)
    blend = photograph.filled(photo, borders.faded(hole), hole)
    whole = photograph.edited(photo, large.convert("RGB"), blend, fill=True)
    assert whole.image.getchannel("A").getextrema() == (255, 255)
    _, filled = edit(clear, fill=True)
    assert filled.image.getpixel((25, 20)) == (20, 200, 60, 255)


def test_opaque_blends_onto_white() -> None:
    for data in (
        EXACT["RGBA"],
        EXACT["LA"],
        png.encode(deep_values(4)),
        png.encode(deep_values(2)),
    ):
        photo = photograph.read(data)
        flat = photograph.opaque(photo)
        assert not flat.has_alpha
        assert type(flat.values) is type(photo.values)
        assert np.abs(array(flat.rgb).astype(int) - array(photo.rgb)).max() <= 1


def test_half_transparent_edits_look_right_on_white() -> None:
    clear = gradient("RGB")
    clear.putalpha(200)
    _, result = edit(clear)
    assert result.image.getchannel("A").getextrema() == (200, 200)
    expected = array(GREEN)[20, 25].astype(int).clip(55)  # darker ones need more opacity
    assert np.abs(array(result.rgb)[20, 25] - expected).max() <= 1


def test_without_a_mask_every_pixel_is_replaced() -> None:
    for data in (EXACT["Display P3"], png.encode(deep_values(3))):
        photo = photograph.read(data)
        result = photograph.edited(photo, GREEN, None)
        assert np.abs(array(result.rgb).astype(int) - array(GREEN)).max() <= 2


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1)])
def test_tiny_photographs(size: tuple[int, int]) -> None:
    for mode in ("L", "LA", "RGB", "RGBA"):
        picture = Image.new(mode, size, 7)
        result = photograph.edited(
            photograph.read(picture), Image.new("RGB", size, (9, 9, 9)), Image.new("L", size, 255)
        )
        assert written(result).size == size
