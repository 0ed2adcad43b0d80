"""Pictures with 16 bits per channel, which PIL's color modes cannot hold, as uint16 [H, W, C].

PIL decodes the high byte of each value. Decoding again with the other byte order gives the low
byte.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffedit.notices import Notice

Deep = NDArray[np.uint16]
"""uint16 [H, W, C], C = 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA)."""

_NATIVE_SWAPPED = "B" if sys.byteorder == "little" else "L"
_LOW_BYTES = {
    f"{mode};16{order}": f"{mode};16{swapped}"
    for mode in ("RGB", "RGBA")
    for order, swapped in (("B", "L"), ("L", "B"), ("N", _NATIVE_SWAPPED))
}
GREY_ALPHA = "LA;16B"
BITS_PER_SAMPLE = 258
"""TIFF's tag."""
DARK = Notice(
    "almost_black",
    "The picture has 16 bits a channel and no value above 255 of 65535, so it is almost black. If "
    "its values are from 0 to 255, convert it to 8 bits.",
)
EIGHT_OF_32 = Notice(
    "bits_guessed",
    "The picture has 32 bits a pixel and no value above 255, so it is read with 8 bits; convert it "
    "to 16 bits if it is meant to be dark.",
)
SIXTEEN_OF_32 = Notice("bits_reduced", "The picture has 32 bits a pixel; the result has 16.")


@dataclass(frozen=True, eq=False)
class LowBytes:
    """The second decoding of a file.

    Attributes:
        image: the low bytes; for grey with alpha all four bytes of each pixel.
        grey_alpha: whether the file is grey with alpha.
    """

    image: Image.Image
    grey_alpha: bool


def low_bytes(header: Image.Image, reopen: Callable[[], Image.Image]) -> LowBytes | None:
    """Decode a color file with 16 bits per channel a second time; None for other files.

    Args:
        header: the opened file, not decoded.
        reopen: opens the file once more.
    """
    mode = _raw_mode(header)
    if mode not in _LOW_BYTES and mode != GREY_ALPHA:
        return None
    again: Any = reopen()
    swapped = "RGBA" if mode == GREY_ALPHA else _LOW_BYTES[mode]
    again.tile = [tile._replace(args=_with_mode(tile.args, swapped)) for tile in again.tile]
    again.load()
    return LowBytes(again, mode == GREY_ALPHA)


def is_reduced(header: Image.Image) -> bool:
    """Whether PIL reads 8 bits of an opened file that has more, and `low_bytes` cannot help."""
    tiles: Any = getattr(header, "tile", None)
    if tiles and tiles[0][0] == "ppm" and header.mode == "RGB":
        return bool(tiles[0][3][1] > 255)
    mode = _raw_mode(header)
    is_wide = ";16" in mode and mode != GREY_ALPHA and mode not in _LOW_BYTES
    return is_wide and not header.mode.startswith("I")


def _raw_mode(image: Any) -> str:
    tiles = getattr(image, "tile", None)
    args = tiles[0][3] if tiles else ""
    mode = args[0] if isinstance(args, tuple) and args else args
    return mode if isinstance(mode, str) else ""


def _with_mode(args: Any, mode: str) -> Any:
    return mode if isinstance(args, str) else (mode, *args[1:])


def join(high: Image.Image, low: Image.Image, second: LowBytes) -> Deep:
    """Return the 16-bit values of two decodings.

    Args:
        high: PIL's own decoding.
        low: `second.image`, turned as `high` is.
        second: the second decoding.
    """
    if second.grey_alpha:
        pairs = np.asarray(low)
        return _words(pairs[..., ::2], pairs[..., 1::2])
    return _words(np.asarray(high), np.asarray(low))


def _words(high: NDArray[np.uint8], low: NDArray[np.uint8]) -> Deep:
    values: Deep = high.astype(np.uint16)
    values <<= 8
    values |= low
    return values


def is_twelve_bits(header: Image.Image) -> bool:
    """Whether an opened file has 12 bits a pixel, which PIL reads as I;16 with small values."""
    return _raw_mode(header) == "I;12"


def from_twelve_bits(image: Image.Image) -> Deep:
    """Return grey from 0 to 4095 scaled to 0 to 65535, as [H, W, 1]."""
    values: Deep = np.asarray(image).astype(np.uint16)
    scaled: Deep = np.bitwise_or(values << 4, values >> 8, dtype=np.uint16)
    return scaled[..., None]


def stated_bits(header: Image.Image) -> int | None:
    """Bits of a value of a grey picture of whole numbers, as its mode or its file states them; None
    for a picture in memory of mode I, which holds numbers of any size."""
    if header.mode.startswith("I;16"):
        return 16
    if header.format == "TIFF":
        bits: Any = getattr(header, "tag_v2", {}).get(BITS_PER_SAMPLE)
        return int(bits[0]) if isinstance(bits, tuple) and bits else None
    return None if header.format is None else 16


def from_integers(image: Image.Image, bits: int | None) -> tuple[Deep | Image.Image, Notice | None]:
    """Return a grey picture of mode I or I;16 as [H, W, 1] or as L, and a warning or None.

    White is the number that the file states. 32 bits have no agreed white, so it is the smallest of
    255, 65535 and 2**31 - 1 that no value exceeds.

    Args:
        bits: `stated_bits`.
    """
    values = np.asarray(image).astype(np.int64).clip(0)
    highest = int(values.max())
    if bits == 16:
        return values.astype(np.uint16)[..., None], None
    if highest <= 255:
        return Image.fromarray(values.astype(np.uint8)), EIGHT_OF_32
    if highest <= 65535:
        return values.astype(np.uint16)[..., None], None
    values = (values * 65535 + 2**30) // (2**31 - 1)
    return values.astype(np.uint16)[..., None], SIXTEEN_OF_32


def is_dark(values: Deep) -> bool:
    """Whether the maximum is between 1 and 255 of 65535: most likely the values have 8 bits."""
    channels = values.shape[2]
    colors = values[..., : channels - (channels in (2, 4))]
    return 0 < int(colors.max()) <= 255


def with_transparent_color(values: Deep, color: Any) -> Deep:
    """Add an alpha channel: pixels of one color (PNG's tRNS) are transparent."""
    alpha = np.where((values == np.asarray(color)).all(axis=2, keepdims=True), 0, 65535)
    return np.concatenate([values, alpha.astype(np.uint16)], axis=2)


def on_white(values: Deep) -> Deep:
    """Blend [H, W, 2 or 4] onto white and drop the alpha channel."""
    alpha = values[..., -1:].astype(np.uint64)
    colors = values[..., :-1] * alpha + 65535 * (65535 - alpha)
    return ((colors + 32767) // 65535).astype(np.uint16)


def to_eight_bits(values: Deep) -> Image.Image:
    """Return the rounded values as L, LA, RGB or RGBA."""
    levels = values.astype(np.uint32)
    levels *= 255
    levels += 32895
    levels >>= 16  # the same as rounding after a division by 257, but faster
    return from_channels(levels.astype(np.uint8))


def from_channels(levels: NDArray[np.uint8]) -> Image.Image:
    """Return uint8 [H, W, C] as L, LA, RGB or RGBA."""
    if levels.shape[2] == 2:
        bands = [Image.fromarray(np.ascontiguousarray(levels[..., c])) for c in (0, 1)]
        return Image.merge("LA", bands)
    return Image.fromarray(levels[..., 0] if levels.shape[2] == 1 else levels)


def from_eight_bits(image: Image.Image) -> Deep:
    """Return L, LA, RGB or RGBA with 0 to 255 scaled to 0 to 65535."""
    levels = np.asarray(image)
    return levels.reshape(*levels.shape[:2], -1).astype(np.uint16) * np.uint16(257)
