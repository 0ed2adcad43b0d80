"""Edits in photographs of 16 and 32 bits a channel."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from diffedit.imaging import compare, encode, photograph, png
from tests.imaging.edited import GREEN, MASK, OUTSIDE, deep_values, edit, written
from tests.imaging.pictures import array, saved


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


def whole_numbers(highest: int, mode: str) -> Image.Image:
    """A grey ramp up to `highest`, of mode I or I;16."""
    ramp = np.linspace(0, highest, 24).astype(np.int64).reshape(4, 6)
    return Image.fromarray(ramp.astype(np.int32 if mode == "I" else np.uint16))


WHOLE: dict[str, tuple[bytes | Image.Image, int, str | None]] = {
    # how it comes: (picture, white of its values, words of the warning)
    "PNG of 16 bits": (saved(whole_numbers(40000, "I;16"), "PNG"), 65535, None),
    "dark PNG of 16 bits": (saved(whole_numbers(200, "I;16"), "PNG"), 65535, "almost black"),
    "dark TIFF of 16 bits": (saved(whole_numbers(255, "I;16"), "TIFF"), 65535, "almost black"),
    "PGM of 16 bits": (saved(whole_numbers(40000, "I"), "PPM"), 65535, None),
    "dark PGM of 16 bits": (saved(whole_numbers(200, "I"), "PPM"), 65535, "almost black"),
    "in memory, I;16": (whole_numbers(300, "I;16"), 65535, None),
    "in memory, dark I;16": (whole_numbers(200, "I;16"), 65535, "almost black"),
    "in memory, L as I": (whole_numbers(200, "I"), 255, "no value above 255"),
    "in memory, I;16 as I": (whole_numbers(256, "I"), 65535, None),
    "in memory, I": (whole_numbers(2**31 - 1, "I"), 2**31 - 1, "32 bits"),
    "TIFF of 32 bits with 8": (saved(whole_numbers(200, "I"), "TIFF"), 255, "no value above 255"),
    "TIFF of 32 bits with 16": (saved(whole_numbers(40000, "I"), "TIFF"), 65535, None),
    "TIFF of 32 bits": (saved(whole_numbers(10**6, "I"), "TIFF"), 2**31 - 1, "32 bits"),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_whole_numbers_have_the_white_that_their_file_states(kind: str) -> None:
    source, white, words = WHOLE[kind]
    photo = photograph.read(source)
    assert [w for w in photo.warnings if words is None or words not in w] == []
    assert len(photo.warnings) == (words is not None)
    opened = Image.open(io.BytesIO(source)) if isinstance(source, bytes) else source
    expected = np.asarray(opened).astype(np.float64) * 255 / white
    np.testing.assert_allclose(array(photo.eight_bit), expected, atol=0.51)
    assert photo.image.mode == ("L" if white == 255 else "I;16")


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_colors_of_eight_bits_in_sixteen_are_said(channels: int) -> None:
    """Whatever the transparency is."""
    values = deep_values(channels) // np.uint16(257)
    if channels in (2, 4):
        values[..., -1] = 65535
    photo = photograph.read(png.encode(values))
    assert [("almost black" in warning) for warning in photo.warnings] == [True]
    np.testing.assert_array_equal(photo.values, values)


def test_a_black_picture_of_sixteen_bits_is_no_mistake() -> None:
    assert photograph.read(Image.new("I;16", (4, 4))).warnings == ()
