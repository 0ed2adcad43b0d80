"""EXIF data and resolution of a photograph, for its upright pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from diffedit.imaging.xmp import kept_xmp

ORIENTATION = 0x0112
QUARTER_TURNS = (5, 6, 7, 8)
EXIF_IFD = 0x8769
WIDTH, HEIGHT = 0xA002, 0xA003
"""Tags of the Exif IFD."""
IPTC_RESOURCE = 0x0404
"""Photoshop's resource with IPTC data."""
STRUCTURE = (
    *(254, 255, 256, 257, 258, 259, 262, 263, 266, 273, 277, 278, 279, 280, 281, 284),
    *(317, 318, 319, 320, 322, 323, 324, 325, 330, 338, 339, 347, 513, 514, 529, 530, 531, 532),
)
"""Tags that describe how a TIFF stores its pixels."""
DOCUMENTS = (700, 33723, 34377, 34675)
"""XMP (see `diffedit.imaging.xmp`), IPTC, Photoshop's resources and the profile."""


@dataclass(frozen=True)
class Metadata:
    """The metadata of a file.

    Attributes:
        exif: EXIF data without orientation and thumbnail, starting with b"Exif"; or None.
        dpi: horizontal and vertical resolution in dots an inch, or None.
        xmp: the XMP packet that `diffedit.imaging.xmp` keeps, or None.
    """

    exif: bytes | None = None
    dpi: tuple[float, float] | None = None
    xmp: bytes | None = None


def stored_exif(image: Image.Image) -> Image.Exif:
    """Return a copy of a picture's EXIF data, empty if it is damaged."""
    exif = Image.Exif()
    try:
        exif.load(image.getexif().tobytes())
    except Exception:  # damaged EXIF raises arbitrary exceptions
        return Image.Exif()
    return exif


def is_turned(exif: Image.Exif) -> bool:
    """Whether the orientation turns the picture by 90 degrees."""
    return exif.get(ORIENTATION) in QUARTER_TURNS


def metadata_of(exif: Image.Exif, info: Mapping[Any, Any], size: tuple[int, int]) -> Metadata:
    """Return the metadata of an upright picture.

    Args:
        exif: as `stored_exif` returns it; it is changed.
        info: PIL's `.info`.
        size: (width, height) of the upright picture.
    """
    dpi = _resolution(info)
    if dpi and is_turned(exif):
        dpi = dpi[::-1]
    for tag in (ORIENTATION, *STRUCTURE, *DOCUMENTS):
        exif.pop(tag, None)
    pixels = exif.get_ifd(EXIF_IFD)
    if WIDTH in pixels or HEIGHT in pixels:
        pixels[WIDTH], pixels[HEIGHT] = size
    xmp = kept_xmp(info.get("xmp"))
    return Metadata(exif.tobytes() if len(exif) else None, dpi, xmp)


def has_iptc(info: Mapping[Any, Any]) -> bool:
    """Whether PIL's `.info` of a JPEG has IPTC data."""
    resources = info.get("photoshop")
    return isinstance(resources, dict) and bool(resources.get(IPTC_RESOURCE))


def _resolution(info: Mapping[Any, Any]) -> tuple[float, float] | None:
    try:
        horizontal, vertical = (float(dots) for dots in info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    if not all(math.isfinite(dots) and 1 <= dots <= 100_000 for dots in (horizontal, vertical)):
        return None
    return horizontal, vertical
