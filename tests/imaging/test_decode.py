"""Decoding: formats, orientation, masks, and sources that are refused."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from demo.picture import still_life
from diffedit.imaging import png
from diffedit.request import InvalidRequest
from tests.imaging.pictures import BLACK, GREEN, RED, WHITE, array, load, noise, saved


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "BMP", "PPM"])
def test_lossless_formats(file_format: str, tmp_path: Path) -> None:
    picture = noise(5, 7)
    path = tmp_path / "picture"
    path.write_bytes(saved(picture, file_format))
    for source in (path, str(path), path.read_bytes(), bytearray(path.read_bytes()), picture):
        found = load(source)
        assert found.mode == "RGB"
        assert type(found) is Image.Image
        assert found.tobytes() == picture.tobytes()
    assert load(np.asarray(picture)).tobytes() == picture.tobytes()


@pytest.mark.parametrize("file_format", ["JPEG", "WEBP"])
def test_lossy_formats(file_format: str) -> None:
    found = load(saved(Image.new("RGB", (32, 32), RED), file_format, quality=95))
    assert np.abs(array(found).astype(int) - RED).max() < 8


def test_a_png_with_much_text_is_read(tmp_path: Path) -> None:
    """Other programs store their workflow. Pillow refuses more than 1 MiB."""
    text = png.text_chunk("workflow", "x" * 2**21, compress=True)
    (tmp_path / "a.png").write_bytes(png.encode(noise(4, 6), [text]))
    with pytest.raises(ValueError, match="too large"):
        Image.open(tmp_path / "a.png")
    for source in (tmp_path / "a.png", (tmp_path / "a.png").read_bytes()):
        assert load(source).tobytes() == noise(4, 6).tobytes()


def test_the_source_is_not_modified() -> None:
    picture = noise(4, 4)
    picture.info["icc_profile"] = b"x"
    found = load(picture)
    found.putpixel((0, 0), BLACK)
    assert found is not picture
    assert picture.tobytes() == noise(4, 4).tobytes()
    assert picture.info == {"icc_profile": b"x"}
    assert found.info == {}
    pixels = np.zeros((2, 2, 3), np.uint8)
    found = load(pixels)
    pixels[:] = 9
    assert found.getextrema() == ((0, 0),) * 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "JPEG"])
def test_the_exif_orientation_is_applied(orientation: int, file_format: str) -> None:
    """The tag names the sides that the first stored row and column show: store them accordingly."""
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :16] = WHITE  # a white corner
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if file_format == "JPEG" else {}
    data = saved(Image.fromarray(np.ascontiguousarray(stored)), file_format, exif=exif, **options)
    found = array(load(data)).astype(int)
    assert found.shape == upright.shape
    assert np.abs(found - upright).max() < 12
    opened = Image.open(io.BytesIO(data))
    assert load(opened).size == (32, 16)


def test_broken_exif_is_ignored() -> None:
    """PIL warns of it; this test suite turns warnings into errors."""
    exif = b"Exif\0\0II*\0\x08\0\0\0\x05\0"  # announces five entries and contains none
    data = saved(Image.new("RGB", (16, 8), RED), "PNG", exif=exif)
    with pytest.raises(UserWarning, match="Corrupt EXIF"):
        Image.open(io.BytesIO(data)).getexif()
    assert load(data).size == (16, 8)


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation_is_used(file_format: str) -> None:
    first, second = (Image.new("RGB", (16, 16), c) for c in (RED, GREEN))
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = saved(first, file_format, save_all=True, append_images=[second], **options)
    assert getattr(Image.open(io.BytesIO(data)), "n_frames", 1) == 2
    assert np.abs(array(load(data)).astype(int) - RED).max() <= 3


def check_refused(source: Any, message: str, **options: Any) -> str:
    with pytest.raises(InvalidRequest, match=message) as caught:
        load(source, **options)
    text = str(caught.value)
    assert text.endswith(".")
    assert "\n" not in text
    return text


@contextmanager
def without_privileges() -> Iterator[None]:
    """Drop root privileges for a moment: root can read every file."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_bad_paths(tmp_path: Path) -> None:
    assert str(tmp_path / "none.png") in check_refused(tmp_path / "none.png", "does not exist")
    check_refused(str(tmp_path), "is a folder")
    check_refused("\0", "cannot be opened")
    check_refused("x" * 5000, "cannot be opened")
    os.mkfifo(tmp_path / "pipe")
    check_refused(tmp_path / "pipe", "is not a regular file")
    (tmp_path / "locked.png").write_bytes(saved(noise(2, 2), "PNG"))
    (tmp_path / "locked.png").chmod(0)
    with without_privileges():
        check_refused(tmp_path / "locked.png", "cannot be read")


def test_bad_contents(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"")
    check_refused(path, "is empty")
    check_refused(b"", "is empty")
    path.write_text("this is a shopping list")
    check_refused(path, "is not in a supported format")
    check_refused(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not in a supported format"
    )


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_files_are_refused(file_format: str, share: float) -> None:
    data = saved(noise(64, 64), file_format)
    palette_is_cut = (file_format, share) == ("GIF", 0.1)  # PIL needs it to detect the format
    message = "is not in a supported format" if palette_is_cut else "is damaged"
    check_refused(data[: int(len(data) * share)], message)


@given(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "TIFF"]), st.integers(0, 2**32))
def test_random_damage_raises_nothing_but_invalid_request(file_format: str, seed: int) -> None:
    data = bytearray(saved(still_life(24, 16), file_format))
    rng = np.random.default_rng(seed)
    for position in rng.integers(0, len(data), 6):
        data[position] = rng.integers(256)
    with contextlib.suppress(InvalidRequest):
        assert load(bytes(data), max_pixels=10**6).mode == "RGB"


def png_header(width: int, height: int) -> bytes:
    """A PNG with the header of a given size and without pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", b"x") + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("width", "height"), [(8001, 8000), (9000, 10000), (12000, 12000), (65000, 65000)]
)
def test_huge_pictures_are_refused_from_their_header(width: int, height: int) -> None:
    """PIL itself only warns above 89 megapixels, and raises its own error above 179."""
    check_refused(png_header(width, height), "pixels")


def test_the_caller_sets_the_limit() -> None:
    picture = noise(10, 10)
    assert load(picture, max_pixels=100).size == (10, 10)
    text = check_refused(picture, "the limit is 99", max_pixels=99)
    assert "10 x 10 = 100 pixels" in text
    check_refused(np.zeros((10, 10, 3), np.uint8), "the limit is 99", max_pixels=99)
    check_refused(saved(picture, "PNG"), "the limit is 99", max_pixels=99)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((2, 2, 3), np.float32), "array of float32"),
        (np.zeros((2, 2, 3), bool), "array of bool"),
        (np.zeros((2, 2), np.uint8), r"shape \(2, 2\)"),
        (np.zeros((2, 2, 4), np.uint8), r"shape \(2, 2, 4\)"),
        (np.zeros((3, 2, 2), np.uint8), r"shape \(3, 2, 2\)"),
        (np.zeros((1, 2, 2, 3), np.uint8), r"shape \(1, 2, 2, 3\)"),
        (np.zeros((0, 2, 3), np.uint8), "pixels"),
        (Image.new("RGB", (0, 4)), "0 x 4 pixels"),
        (Image.new("F", (2, 2)), "floating-point"),
        (7, "of type int"),
        (None, "of type NoneType"),
        ([[1]], "of type list"),
    ],
)
def test_sources_that_are_not_pictures(source: Any, message: str) -> None:
    check_refused(source, message)


def test_a_closed_pil_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(saved(noise(4, 4), "PNG"))
    with Image.open(tmp_path / "a.png") as picture:
        pass
    check_refused(picture, "damaged")


def test_arrays_with_strides() -> None:
    pixels = np.asarray(noise(6, 8))[::2, ::-1]
    np.testing.assert_array_equal(array(load(pixels)), pixels)
