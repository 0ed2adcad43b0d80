"""Edits in photographs of every kind: outside the mask, the file's own values are kept."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from diffedit.imaging import compare, encode, photograph, png
from diffedit.imaging.photograph import Photograph
from tests.imaging.pictures import array, noise, saved
from tests.imaging.profiles import P3, SRGB_PRIMARIES, grey_profile, icc_profile

SIZE = (64, 48)
MASK = Image.new("L", SIZE)
MASK.paste(255, (10, 10, 40, 30))
OUTSIDE = np.asarray(MASK) == 0
LINEAR = icc_profile([0, 65535], SRGB_PRIMARIES)
GREEN = Image.new("RGB", SIZE, (20, 200, 60))


def edit(source: Any, **options: Any) -> tuple[Photograph, Photograph]:
    """The photograph, and the same with a green box."""
    photo = photograph.read(source)
    return photo, photograph.edited(photo, GREEN, MASK, **options)


def written(photo: Photograph) -> Image.Image:
    """The PNG of a result, as PIL opens it."""
    image = Image.open(io.BytesIO(encode.encode(photo, "PNG")))
    image.load()
    return image


def gradient(mode: str) -> Image.Image:
    return noise(48, 64).convert(mode)


def with_alpha(mode: str) -> Image.Image:
    picture = gradient(mode)
    picture.putalpha(Image.linear_gradient("L").resize(SIZE))
    return picture


def gamma_info(gamma: float) -> PngInfo:
    info = PngInfo()
    info.add(b"gAMA", struct.pack(">I", round(gamma * 100000)))
    return info


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


# -- 16 bits ---------------------------------------------------------------------------------------


def deep_values(channels: int) -> NDArray[np.uint16]:
    return np.random.default_rng(channels).integers(0, 65536, (48, 64, channels), np.uint16)


def deep_tiff(values: NDArray[np.uint16], order: str, *, deflate: bool = False) -> bytes:
    """A TIFF of one strip with 16 bits a channel, in byte order ">" or "<"."""
    pixels = values.astype(f"{order}u2").tobytes()
    data = zlib.compress(pixels) if deflate else pixels
    height, width, channels = values.shape
    short, long = 3, 4
    entries = [
        (256, short, width), (257, short, height), (259, short, 8 if deflate else 1),
        (262, short, 2), (273, long, 8), (277, short, channels), (278, short, height),
        (279, long, len(data)),
    ]  # fmt: skip
    entries += [(338, short, 2)] if channels == 4 else []
    depths_at = 8 + len(data)
    start = depths_at + 2 * channels
    table = struct.pack(order + "H", len(entries) + 1)
    for tag, kind, value in sorted([*entries, (258, short, depths_at)]):
        count = channels if tag == 258 else 1
        wide = kind == long or tag == 258
        table += struct.pack(order + "HHI", tag, kind, count)
        table += struct.pack(order + ("I" if wide else "HH"), *([value] if wide else [value, 0]))
    head = (b"MM\0*" if order == ">" else b"II*\0") + struct.pack(order + "I", start)
    depths = struct.pack(f"{order}{channels}H", *[16] * channels)
    return head + data + depths + table + struct.pack(order + "I", 0)


DEEP = {
    "RGB": (png.encode(deep_values(3)), deep_values(3)),
    "RGBA": (png.encode(deep_values(4)), deep_values(4)),
    "grey": (png.encode(deep_values(1)), deep_values(1)),
    "grey with alpha": (png.encode(deep_values(2)), deep_values(2)),
    "TIFF, Intel": (deep_tiff(deep_values(3), "<"), deep_values(3)),
    "TIFF, Motorola": (deep_tiff(deep_values(3), ">"), deep_values(3)),
    "TIFF, compressed": (deep_tiff(deep_values(3), "<", deflate=True), deep_values(3)),
    "TIFF, Motorola, compressed": (deep_tiff(deep_values(3), ">", deflate=True), deep_values(3)),
    "TIFF with alpha": (deep_tiff(deep_values(4), "<"), deep_values(4)),
    "grey TIFF": (saved(Image.fromarray(deep_values(1)[..., 0]), "TIFF"), deep_values(1)),
}


@pytest.mark.parametrize("kind", DEEP)
def test_sixteen_bits_are_kept(kind: str, tmp_path: Path) -> None:
    data, values = DEEP[kind]
    (tmp_path / "a").write_bytes(data)
    for source in (data, tmp_path / "a"):
        photo, result = edit(source, fill=True)
        assert photo.warnings == ()
        np.testing.assert_array_equal(photo.values, values)
        again = photograph.read(encode.encode(result, "PNG")).values
        assert isinstance(again, np.ndarray)
        np.testing.assert_array_equal(again[OUTSIDE], values[OUTSIDE])
        expected = [GREEN.convert("L").getpixel((0, 0))] if values.shape[2] < 3 else [20, 200, 60]
        assert again[20, 25].tolist()[: len(expected)] == [257 * v for v in expected]  # type: ignore[operator]
        assert compare.largest_difference(photo, result, MASK.point(lambda v: 255 - v)) == 0
    opened, shown = Image.open(io.BytesIO(data)), written(result)
    assert shown.mode == opened.mode == ("RGBA" if kind == "grey with alpha" else result.image.mode)
    np.testing.assert_array_equal(array(shown)[OUTSIDE], array(opened)[OUTSIDE])


def test_sixteen_bits_and_a_turn() -> None:
    values = deep_values(3)
    exif = Image.Exif()
    exif[0x0112] = 6
    data = png.encode(values, [(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))])
    photo = photograph.read(data)
    np.testing.assert_array_equal(photo.values, np.rot90(values, -1))
    assert (photo.size, photo.stored_size) == ((48, 64), (64, 48))


def test_a_transparent_color_of_sixteen_bits() -> None:
    values = deep_values(3)
    key = struct.pack(">3H", *values[3, 5])
    photo = photograph.read(png.encode(values, [(b"tRNS", key)]))
    assert isinstance(photo.values, np.ndarray)
    np.testing.assert_array_equal(photo.values[..., :3], values)
    assert (photo.values[..., 3] == 0).sum() == 1
    assert photo.values[3, 5, 3] == 0


def test_thirty_two_bits_become_sixteen_with_a_warning() -> None:
    picture = Image.fromarray(np.array([[0, 2**31 - 1]], np.int32))
    photo = photograph.read(picture)
    assert np.asarray(photo.values).ravel().tolist() == [0, 65535]
    assert "32 bits" in photo.warnings[0]


# -- what cannot be kept ---------------------------------------------------------------------------

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


# -- transparency ----------------------------------------------------------------------------------


def test_transparency_stays_or_is_filled() -> None:
    clear = gradient("RGB")
    clear.putalpha(MASK.point(lambda v: 255 - v))
    photo, kept = edit(clear)
    assert kept.image.getchannel("A").tobytes() == clear.getchannel("A").tobytes()
    assert compare.hidden_share(photo, MASK) == 1
    large = Image.new("RGB", (1024, 768), "red")  # wide enough for a fade at the outline
    hole = MASK.resize(large.size, Image.Resampling.NEAREST)
    large.putalpha(hole.point(lambda v: 255 - v))
    whole = photograph.edited(photograph.read(large), large.convert("RGB"), hole, fill=True)
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
