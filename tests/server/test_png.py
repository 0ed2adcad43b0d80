"""The server's own PNG encoder, read back by Pillow, which checks every chunk's sum."""

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


def read(data: bytes) -> Image.Image:
    """Decoded, every chunk checked."""
    with Image.open(io.BytesIO(data), formats=["PNG"]) as checked:
        checked.verify()
    with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        image.load()
        return image


@settings(max_examples=60, deadline=None)
@given(SIDE, SIDE, st.sampled_from(["L", "RGB"]), st.integers(0, 2**32 - 1))
def test_any_picture_comes_back_equal(width: int, height: int, mode: str, seed: int) -> None:
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    noise = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    image = Image.fromarray(noise)
    again = read(png.encode(image))
    assert (again.mode, again.size) == (mode, (width, height))
    assert again.tobytes() == image.tobytes()


def test_metadata_is_read_by_others() -> None:
    image = read(png.encode(still_life(64, 48), "<x:xmpmeta>a pear</x:xmpmeta>"))
    assert isinstance(image, PngImagePlugin.PngImageFile)
    assert image.info["xmp"] == b"<x:xmpmeta>a pear</x:xmpmeta>"


def test_a_photograph_takes_no_more_than_pillow_makes_of_it() -> None:
    photo = still_life(512, 512)
    buffer = io.BytesIO()
    photo.save(buffer, "PNG", compress_level=1)
    assert len(png.encode(photo)) < 1.2 * len(buffer.getvalue())


def test_other_modes_are_refused() -> None:
    with pytest.raises(KeyError):
        png.encode(Image.new("RGBA", (4, 4)))
