"""Warnings about what PIL drops without one: more than 8 bits, and colors by CICP numbers."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from diffedit.imaging import photograph
from diffedit.imaging.png import chunks_of
from tests.imaging.pictures import noise, saved

PICTURE = noise(40, 60)


def jpeg_2000(bits: int) -> bytes:
    """A file whose codestream says that its channels have so many bits."""
    data = bytearray(saved(PICTURE, "JPEG2000"))
    start = data.find(b"\xff\x51") + 40
    for channel in range(3):
        data[start + 3 * channel] = bits - 1
    return bytes(data)


def avif(bits: int) -> bytes:
    """A file whose header says that its channels have so many bits."""
    data = bytearray(saved(PICTURE, "AVIF"))
    data[data.find(b"av1C") + 6] |= 0x40 if bits == 10 else 0
    start = data.find(b"pixi") + 9
    data[start : start + 3] = bytes([bits] * 3)
    return bytes(data)


def avif_of_color(primaries: int, transfer: int) -> bytes:
    data = bytearray(saved(PICTURE, "AVIF"))
    struct.pack_into(">HH", data, data.find(b"nclx") + 4, primaries, transfer)
    return bytes(data)


def png_of_color(primaries: int, transfer: int) -> bytes:
    data = saved(PICTURE, "PNG")
    chunk = b"cICP" + bytes([primaries, transfer, 0, 1])
    packed = struct.pack(">I", 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    assert next(chunks_of(data))[0] == b"IHDR"
    return data[:33] + packed + data[33:]


def twelve_bit_tiff(values: np.ndarray[tuple[int, int], np.dtype[np.uint16]]) -> bytes:
    """Grey, two pixels in three bytes."""
    height, width = values.shape
    first, second = values.reshape(-1, 2).astype(int).T
    pixels = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 1)
    data = pixels.astype(np.uint8).tobytes()
    begin = 8 + 2 + 12 * 9 + 4
    tags = [(256, width), (257, height), (258, 12), (259, 1), (262, 1), (273, begin), (277, 1)]
    tags += [(278, height), (279, len(data))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return struct.pack("<2sHIH", b"II", 42, 8, 9) + entries + bytes(4) + data


LOSSES: dict[str, tuple[Callable[[], bytes], str]] = {
    "JPEG 2000 of 12 bits": (lambda: jpeg_2000(12), "12 bits a channel.*JPEG2000.*16-bit PNG"),
    "JPEG 2000 of 16 bits": (lambda: jpeg_2000(16), "16 bits a channel"),
    "AVIF of 10 bits": (lambda: avif(10), "10 bits a channel.*AVIF"),
    "AVIF in PQ": (lambda: avif_of_color(9, 16), r"HDR \(PQ\).*9 and 16.*read as sRGB"),
    "AVIF in Display P3": (lambda: avif_of_color(12, 13), "another color space.*12 and 13"),
    "PNG in HLG": (lambda: png_of_color(9, 18), r"HDR \(HLG\)"),
}


@pytest.mark.parametrize("case", LOSSES)
def test_a_loss_is_one_warning(case: str) -> None:
    make, words = LOSSES[case]
    (warning,) = photograph.read(make()).warnings
    assert re.search(words, warning)


@pytest.mark.parametrize(
    "data",
    [
        jpeg_2000(8),
        avif(8),
        avif_of_color(1, 13),
        avif_of_color(2, 2),
        png_of_color(1, 13),
        saved(PICTURE, "PNG"),
        saved(PICTURE, "AVIF"),
        saved(PICTURE, "JPEG2000"),
        saved(Image.fromarray(np.full((8, 8), 50_000, np.uint16)), "JPEG2000"),
    ],
)
def test_what_is_kept_has_no_warning(data: bytes) -> None:
    assert photograph.read(data).warnings == ()


def test_twelve_bits_of_grey_have_their_brightness() -> None:
    """PIL reads 0 to 4095 as 16 bits: the picture was almost black, without a warning."""
    values = np.linspace(0, 4095, 16 * 12).astype(np.uint16).reshape(12, 16)
    photo = photograph.read(twelve_bit_tiff(values))
    assert isinstance(photo.values, np.ndarray)
    assert np.array_equal(photo.values[..., 0] >> 4, values)
    assert photo.rgb.getextrema()[0] == (0, 255)
