"""The PNG encoder. Pillow decodes the files and verifies every checksum."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

pytest.importorskip("fastapi", reason="needs the server extra")

from demo.picture import still_life
from diffedit.server import png

SIDE = st.integers(1, 40)


def decode(data: bytes) -> Image.Image:
    """Decode a PNG and verify its checksums."""
    with Image.open(io.BytesIO(data), formats=["PNG"]) as checked:
        checked.verify()
    with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        image.load()
        return image


@settings(max_examples=60, deadline=None)
@given(SIDE, SIDE, st.sampled_from(["L", "RGB"]), st.integers(0, 2**32 - 1))
def test_round_trip_is_lossless(width: int, height: int, mode: str, seed: int) -> None:
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    noise = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    image = Image.fromarray(noise)
    decoded = decode(png.encode(image))
    assert (decoded.mode, decoded.size) == (mode, (width, height))
    assert decoded.tobytes() == image.tobytes()


def test_pillow_reads_the_metadata() -> None:
    image = decode(png.encode(still_life(64, 48), "<x:xmpmeta>a pear</x:xmpmeta>"))
    assert isinstance(image, PngImagePlugin.PngImageFile)
    assert image.info["xmp"] == b"<x:xmpmeta>a pear</x:xmpmeta>"


def test_file_size_of_a_photograph_is_close_to_pillows() -> None:
    photo = still_life(512, 512)
    buffer = io.BytesIO()
    photo.save(buffer, "PNG", compress_level=1)
    assert len(png.encode(photo)) < 1.2 * len(buffer.getvalue())


def test_unsupported_mode_raises_key_error() -> None:
    with pytest.raises(KeyError):
        png.encode(Image.new("RGBA", (4, 4)))
