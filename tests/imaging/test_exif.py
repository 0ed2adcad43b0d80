"""EXIF and resolution: kept for the upright pixels, without thumbnails and structure."""

from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import ExifTags, Image

from diffedit.imaging import encode, photograph
from tests.imaging.pictures import noise, saved

MAKE, GPS, EXIF, ISO, WIDTH = 0x010F, 0x8825, 0x8769, 0x8827, 0xA002


def camera(orientation: int = 1) -> Image.Exif:
    exif = Image.Exif()
    exif[MAKE] = "Camera"
    exif[0x0112] = orientation
    exif.get_ifd(EXIF)[ISO] = 200
    exif.get_ifd(EXIF)[WIDTH] = 64
    exif.get_ifd(GPS)[1] = "N"
    return exif


def reopened(data: bytes, file_format: encode.FileFormat) -> Image.Image:
    image = Image.open(io.BytesIO(encode.encode(photograph.read(data), file_format)))
    image.load()
    return image


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("source", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_exif_is_kept_and_the_pixels_are_upright(
    source: str, file_format: encode.FileFormat
) -> None:
    image = reopened(saved(noise(48, 64), source, exif=camera(6).tobytes()), file_format)
    assert image.size == (48, 64)
    exif = image.getexif()
    assert exif[MAKE] == "Camera"
    assert exif.get(0x0112, 1) == 1
    assert exif.get_ifd(EXIF)[ISO] == 200
    assert exif.get_ifd(EXIF)[WIDTH] == 48
    assert exif.get_ifd(GPS)[1] == "N"


def test_the_thumbnail_is_dropped() -> None:
    """It would show the photograph before the edit."""
    first = camera().tobytes()[6:]
    order: Any = "little" if first[:2] == b"II" else "big"
    thumbnail = b"\xff\xd8THUMBNAIL\xff\xd9"
    next_at = 10 + 12 * int.from_bytes(first[8:10], order)
    ifd1 = b"".join(
        value.to_bytes(size, order)
        for size, value in [
            *((2, 2), (2, 513), (2, 4), (4, 1), (4, len(first) + 30)),
            *((2, 514), (2, 4), (4, 1), (4, len(thumbnail)), (4, 0)),
        ]
    )
    linked = first[:next_at] + len(first).to_bytes(4, order) + first[next_at + 4 :]
    with_thumbnail = b"Exif\0\0" + linked + ifd1 + thumbnail
    data = saved(noise(48, 64), "JPEG", exif=with_thumbnail)
    assert thumbnail in data
    assert Image.open(io.BytesIO(data)).getexif().get_ifd(ExifTags.IFD.IFD1)[514] == len(thumbnail)
    formats: tuple[encode.FileFormat, ...] = ("PNG", "JPEG")
    for file_format in formats:
        result = encode.encode(photograph.read(data), file_format)
        assert b"THUMBNAIL" not in result
        assert b"Camera" in result


def test_the_structure_of_a_tiff_is_not_exif() -> None:
    exif = reopened(saved(noise(48, 64), "TIFF"), "PNG").getexif()
    assert not {256, 257, 258, 273, 279} & set(exif)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF"])
def test_the_resolution_is_kept(file_format: encode.FileFormat) -> None:
    for source in ("PNG", "JPEG", "TIFF"):
        image = reopened(saved(noise(48, 64), source, dpi=(300, 300)), file_format)
        assert [round(float(dots)) for dots in image.info["dpi"]] == [300, 300]


def test_the_resolution_is_turned_with_the_pixels() -> None:
    photo = photograph.read(saved(noise(48, 64), "TIFF", dpi=(300, 150), exif=camera(6)))
    assert photo.metadata.dpi == (150, 300)


@pytest.mark.parametrize("dpi", [(0, 0), (float("nan"), 1), (1e9, 1e9), "x", None, (72,)])
def test_damaged_resolutions_are_dropped(dpi: Any) -> None:
    picture = noise(4, 4)
    picture.info["dpi"] = dpi
    assert photograph.read(picture).metadata.dpi is None


def test_xmp_is_dropped() -> None:
    """It may contain a thumbnail and a history of the photograph before the edit."""
    data = saved(noise(48, 64), "JPEG", xmp=b"<x:xmpmeta>history</x:xmpmeta>")
    assert b"history" not in encode.encode(photograph.read(data), "PNG")


def test_the_caller_keeps_its_exif() -> None:
    picture = Image.open(io.BytesIO(saved(noise(48, 64), "JPEG", exif=camera(6))))
    photograph.read(picture)
    assert picture.getexif()[0x0112] == 6
