"""The PNG encoder. Pillow decodes the files and verifies every checksum."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from demo.picture import still_life
from diffedit.imaging import png

SIDE = st.integers(1, 40)


def decode(data: bytes) -> Image.Image:
    """Decode a PNG and verify its checksums."""
    with Image.open(io.BytesIO(data), formats=["PNG"]) as checked:
        checked.verify()
    with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        image.load()
        return image


@settings(max_examples=60, deadline=None)
@given(SIDE, SIDE, st.sampled_from(["L", "LA", "RGB", "RGBA"]), st.integers(0, 2**32 - 1))
def test_round_trip_is_lossless(width: int, height: int, mode: str, seed: int) -> None:
    shape = (height, width, len(mode))
    noise = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    image = Image.fromarray(noise[..., 0] if mode == "L" else noise, mode)
    decoded = decode(png.encode(image))
    assert (decoded.mode, decoded.size) == (mode, (width, height))
    assert decoded.tobytes() == image.tobytes()


def test_pillow_reads_the_metadata() -> None:
    chunk = png.text_chunk("XML:com.adobe.xmp", "<x:xmpmeta>a pear</x:xmpmeta>")
    image = decode(png.encode(still_life(64, 48), [chunk]))
    assert isinstance(image, PngImagePlugin.PngImageFile)
    assert image.info["xmp"] == b"<x:xmpmeta>a pear</x:xmpmeta>"


def test_file_size_of_a_photograph_is_close_to_pillows() -> None:
    photo = still_life(512, 512)
    buffer = io.BytesIO()
    photo.save(buffer, "PNG", compress_level=1)
    assert len(png.encode(photo)) < 1.2 * len(buffer.getvalue())


def test_unsupported_mode_raises_key_error() -> None:
    with pytest.raises(KeyError):
        png.encode(Image.new("CMYK", (4, 4)))


def test_sixteen_bits() -> None:
    values = np.random.default_rng(0).integers(0, 65536, (9, 7, 4), np.uint16)
    grey = decode(png.encode(Image.fromarray(values[..., 0])))
    assert grey.mode == "I;16"
    np.testing.assert_array_equal(np.asarray(grey), values[..., 0])
    for channels, mode in ((3, "RGB"), (4, "RGBA")):
        color = decode(png.encode(values[..., :channels]))
        assert color.mode == mode
        np.testing.assert_array_equal(np.asarray(color), values[..., :channels] >> 8)


def test_chunks_are_read_as_written() -> None:
    text = "\u00e9t\u00e9 \U0001f534"
    for compress in (False, True):
        chunks = [png.text_chunk("note", text, compress=compress), (b"abCd", b"12")]
        found = list(png.chunks_of(png.encode(still_life(8, 8), chunks)))
        assert [name for name, _ in found] == [b"IHDR", b"iTXt", b"abCd", b"IDAT", b"IEND"]
        assert png.text_of(found, "note") == text
        assert png.text_of(found, "not") is None


def test_damaged_files_raise_value_error() -> None:
    data = png.encode(still_life(8, 8))
    damaged = bytearray(data)
    damaged[60] ^= 1
    for bad in (b"", b"GIF89a", data[:30], data[:-1], bytes(damaged)):
        with pytest.raises(ValueError, match=r"another format|ends early|checksum"):
            list(png.chunks_of(bad))
