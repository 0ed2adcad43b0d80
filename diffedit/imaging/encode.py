"""Write a photograph as PNG, JPEG, WebP or TIFF, with its color profile and metadata."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from diffedit.imaging import png
from diffedit.imaging.exif import Metadata
from diffedit.imaging.photograph import Photograph, opaque
from diffedit.imaging.png import Chunk
from diffedit.notices import Notice
from diffedit.request import InvalidRequest

FileFormat = Literal["PNG", "JPEG", "WEBP", "TIFF"]
EXTENSIONS: dict[str, FileFormat] = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
MAX_JPEG_EXIF = 65533
INCH = 0.0254
XMP_TAG = 700
XMP_KEYWORD = "XML:com.adobe.xmp"


@dataclass(frozen=True)
class EncodeOptions:
    """How to write a file.

    Attributes:
        quality: of JPEG and lossy WebP, 1 to 100; None for 95 and for lossless WebP.
        chunks: further chunks of a PNG.
        xmp: XMP metadata instead of the photograph's.
        metadata: write EXIF, XMP and the resolution. The color profile is always written.
    """

    quality: int | None = None
    chunks: Sequence[Chunk] = ()
    xmp: str | None = None
    metadata: bool = True


def format_of(path: Path) -> FileFormat:
    """Return the format of a file name; raises InvalidRequest for another extension."""
    if (file_format := EXTENSIONS.get(path.suffix.lower())) is None:
        raise InvalidRequest(
            f"{path} does not have the extension of a supported picture format; use one of "
            f"{', '.join(EXTENSIONS)}."
        )
    return file_format


def encode(
    photo: Photograph, file_format: FileFormat, options: EncodeOptions | None = None
) -> bytes:
    """Encode a photograph. PNG keeps every value; `losses` lists what other formats change.

    Raises OSError or ValueError if the format does not allow its size.
    """
    options = options or EncodeOptions()
    metadata = photo.metadata if options.metadata else Metadata()
    xmp = options.xmp.encode() if options.xmp else metadata.xmp
    if file_format == "PNG":
        text = [png.text_chunk(XMP_KEYWORD, xmp.decode())] if xmp else []
        chunks = [*_color_chunks(photo), *_metadata_chunks(metadata), *text, *options.chunks]
        return png.encode(photo.values, chunks)
    image, icc = _storable(photo, file_format)
    saved = _save_options(file_format, options.quality)
    saved |= {"icc_profile": icc} if icc else {}
    if xmp:
        saved |= _xmp_option(file_format, xmp)
    if metadata.exif and (file_format != "JPEG" or len(metadata.exif) <= MAX_JPEG_EXIF):
        saved["exif"] = metadata.exif
    if metadata.dpi and file_format != "WEBP":
        saved["dpi"] = metadata.dpi
    buffer = io.BytesIO()
    image.save(buffer, file_format, **saved)
    return buffer.getvalue()


def losses(photo: Photograph, file_format: FileFormat) -> list[Notice]:
    """Return one sentence for each property of the photograph that a format cannot store."""
    found = []
    is_deep = not isinstance(photo.values, Image.Image)
    if is_deep and file_format != "PNG":
        sentence = f"{file_format} is written with 8 bits, not the picture's 16; write PNG."
        found.append(Notice("format_bits", sentence))
    if photo.has_alpha and file_format == "JPEG":
        sentence = "JPEG has no transparency, so transparent parts are white; write PNG."
        found.append(Notice("format_transparency", sentence))
    if file_format in ("JPEG", "WEBP") and photo.color.gamma:
        sentence = f"{file_format} has no gamma, so all values are converted; write PNG."
        found.append(Notice("format_gamma", sentence))
    if file_format == "WEBP" and photo.color.icc and photo.base_mode == "L":
        sentence = "WebP has no grey profiles, so all values are converted to sRGB; write PNG."
        found.append(Notice("format_profile", sentence))
    return found


def _xmp_option(file_format: FileFormat, xmp: bytes) -> dict[str, Any]:
    """PIL's option for XMP; TIFF has a tag for it."""
    if file_format == "TIFF":
        return {"tiffinfo": {XMP_TAG: xmp}}
    return {"xmp": xmp}


def _save_options(file_format: FileFormat, quality: int | None) -> dict[str, Any]:
    if file_format == "JPEG":
        return {"quality": 95 if quality is None else quality, "subsampling": 0}
    if file_format == "TIFF":
        return {}  # not compressed: libtiff, which compresses, cannot write EXIF
    if quality is None:
        return {"lossless": True, "exact": True}  # exact: keep the colors of transparent pixels
    return {"quality": quality, "method": 2}


def _storable(photo: Photograph, file_format: FileFormat) -> tuple[Image.Image, bytes | None]:
    """Return the 8-bit image that a format can hold, and its ICC profile."""
    icc, image = photo.color.icc, photo.eight_bit
    is_grey_webp = file_format == "WEBP" and photo.base_mode == "L"
    if photo.color.gamma or (icc and is_grey_webp):
        icc = None
        image = photo.color.to_srgb(photo.eight_bit.convert(photo.base_mode))
        if photo.has_alpha:
            image.putalpha(photo.eight_bit.getchannel("A"))
    if file_format == "JPEG":
        image = opaque(Photograph(image)).eight_bit
    return image, icc


def _color_chunks(photo: Photograph) -> list[Chunk]:
    if photo.color.icc:
        return [(b"iCCP", b"ICC profile\0\0" + zlib.compress(photo.color.icc))]
    if photo.color.gamma:
        return [(b"gAMA", struct.pack(">I", round(photo.color.gamma * 100000)))]
    return []


def _metadata_chunks(metadata: Metadata) -> list[Chunk]:
    chunks = []
    if metadata.dpi:
        per_meter = [round(dots / INCH) for dots in metadata.dpi]
        chunks.append((b"pHYs", struct.pack(">IIB", *per_meter, 1)))
    if metadata.exif:
        chunks.append((b"eXIf", metadata.exif.removeprefix(b"Exif\0\0")))
    return chunks
