"""A fast PNG encoder. Pillow's takes several times as long, most of it to choose row filters.

Each row is stored as the difference from the row above (PNG's filter "up"), which suits photographs
and masks, and compressed by ISA-L. Specification: https://www.w3.org/TR/png-3/
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
from isal import isal_zlib
from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOUR_TYPES = {"L": 0, "RGB": 2}
FILTER_UP = 2
COMPRESSION_LEVEL = 1


def encode(image: Image.Image, xmp: str | None = None) -> bytes:
    """Encode an 8-bit image.

    Args:
        image: PIL image of mode "L" or "RGB".
        xmp: XMP metadata to store in the file.

    Raises KeyError for other modes.
    """
    colour_type = COLOUR_TYPES[image.mode]
    pixels = np.asarray(image).reshape(image.height, -1)
    rows = np.empty((image.height, 1 + pixels.shape[1]), np.uint8)
    rows[:, 0] = FILTER_UP
    rows[0, 1:] = pixels[0]
    np.subtract(pixels[1:], pixels[:-1], out=rows[1:, 1:])
    header = struct.pack(">IIBBBBB", image.width, image.height, 8, colour_type, 0, 0, 0)
    parts = [SIGNATURE, _chunk(b"IHDR", header)]
    if xmp is not None:
        parts.append(_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp.encode()))
    parts.append(_chunk(b"IDAT", isal_zlib.compress(rows, COMPRESSION_LEVEL)))
    return b"".join([*parts, _chunk(b"IEND", b"")])


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
