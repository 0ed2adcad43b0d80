"""EXIF data and resolution of a photograph, for its upright pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass

from PIL import Image

ORIENTATION = 0x0112
EXIF_IFD = 0x8769
WIDTH, HEIGHT = 0xA002, 0xA003
"""Tags of the Exif IFD."""
STRUCTURE = (
    *(254, 255, 256, 257, 258, 259, 262, 263, 266, 273, 277, 278, 279, 280, 281, 284),
    *(317, 318, 319, 320, 322, 323, 324, 325, 330, 338, 339, 347, 513, 514, 529, 530, 531, 532),
)
"""Tags that describe how a TIFF stores its pixels."""
DOCUMENTS = (700, 33723, 34377, 34675)
"""XMP, IPTC, Photoshop's resources (they may hold thumbnails and histories) and the profile."""


@dataclass(frozen=True)
class Metadata:
    """What a file says besides pixels and colors.

    Attributes:
        exif: EXIF data without orientation and thumbnail, starting with b"Exif"; or None.
        dpi: horizontal and vertical resolution in dots an inch, or None.
    """

    exif: bytes | None = None
    dpi: tuple[float, float] | None = None


def metadata_of(image: Image.Image, size: tuple[int, int]) -> Metadata:
    """Read the metadata of an opened picture. Damaged metadata is dropped.

    Args:
        image: the picture as it is stored.
        size: its (width, height) after its orientation was applied.
    """
    try:
        exif = _upright_exif(image.getexif(), size)
    except Exception:  # damaged EXIF raises arbitrary exceptions
        exif = None
    return Metadata(exif, _resolution(image, size))


def _upright_exif(stored: Image.Exif, size: tuple[int, int]) -> bytes | None:
    exif = Image.Exif()
    exif.load(stored.tobytes())
    for tag in (ORIENTATION, *STRUCTURE, *DOCUMENTS):
        exif.pop(tag, None)
    pixels = exif.get_ifd(EXIF_IFD)
    if WIDTH in pixels or HEIGHT in pixels:
        pixels[WIDTH], pixels[HEIGHT] = size
    return exif.tobytes() if len(exif) else None


def _resolution(image: Image.Image, size: tuple[int, int]) -> tuple[float, float] | None:
    try:
        horizontal, vertical = (float(dots) for dots in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    if not all(math.isfinite(dots) and 1 <= dots <= 100_000 for dots in (horizontal, vertical)):
        return None
    is_turned = size != image.size
    return (vertical, horizontal) if is_turned else (horizontal, vertical)
