"""Warn of data that PIL drops silently: more than 8 bits per channel, and CICP color numbers.

PIL decodes AVIF and JPEG 2000 to 8 bits per channel. AVIF and PNG may state their colors by CICP
numbers instead of a profile, as HDR pictures do (ITU-T H.273 lists the numbers).
"""

from __future__ import annotations

import struct
from typing import Any

from diffedit.imaging import png
from diffedit.notices import Notice

READ_BYTES = 2**20
"""Bytes at the start of a file that are searched for headers."""
CODESTREAM = b"\xff\x4f\xff\x51"
"""The first two markers of a JPEG 2000 codestream."""
SRGB_PRIMARIES = (1, 2)
"""BT.709, which are sRGB's, and "unspecified"."""
SRGB_TRANSFERS = (1, 2, 6, 13, 14, 15)
"""Curves of SDR video, which PIL decodes as sRGB, and "unspecified"."""
HDR = {16: "PQ", 18: "HLG"}


def form_warnings(opened: Any) -> list[Notice]:
    """Return a warning for each property of an opened file that is lost.

    Args:
        opened: PIL image with only its header read; its file is read from the start.
    """
    if opened.format not in ("AVIF", "JPEG2000", "PNG") or opened.fp is None:
        return []
    opened.fp.seek(0)
    data = opened.fp.read(READ_BYTES)
    found: list[Notice] = []
    bits = _bits(data, opened.format)
    if bits > 8 and not opened.mode.startswith("I"):
        sentence = (
            f"The picture has {bits} bits a channel, of which {opened.format} files are read with "
            "8; convert it to a 16-bit PNG or TIFF to keep them."
        )
        found.append(Notice("bits_reduced", sentence))
    if warning := _color_warning(_cicp(data, opened.format)):
        found.append(warning)
    return found


def _bits(data: bytes, file_format: str) -> int:
    """The largest number of bits of a channel; 8 where it is not stated."""
    if file_format == "JPEG2000":
        start = data.find(CODESTREAM) + len(CODESTREAM) + 36
        count = int.from_bytes(data[start : start + 2], "big")
        sizes = data[start + 2 : start + 2 + 3 * count : 3]
        return max((1 + (size & 0x7F) for size in sizes), default=8)
    start = data.find(b"pixi") + 8 if file_format == "AVIF" and b"pixi" in data else len(data)
    return max(data[start + 1 : start + 1 + data[start]], default=8) if start < len(data) else 8


def _cicp(data: bytes, file_format: str) -> tuple[int, int]:
    """The numbers of the primaries and the transfer curve; 2 is "unspecified"."""
    if file_format == "AVIF" and (start := data.find(b"nclx")) >= 0 and start + 8 <= len(data):
        primaries, transfer = struct.unpack_from(">HH", data, start + 4)
        return primaries, transfer
    if file_format == "PNG":
        chunk = png.first_chunk(data, b"cICP")
        if chunk is not None and len(chunk) == 4:
            return chunk[0], chunk[1]
    return 2, 2


def _color_warning(cicp: tuple[int, int]) -> Notice | None:
    primaries, transfer = cicp
    if primaries in SRGB_PRIMARIES and transfer in SRGB_TRANSFERS:
        return None
    kind = f"HDR ({HDR[transfer]})" if transfer in HDR else "of another color space"
    return Notice(
        "colors_not_supported",
        f"The picture is {kind} by its CICP numbers {primaries} and {transfer}, which are not "
        "supported: its values are read as sRGB, and the result does not state them; convert it to "
        "sRGB, or to a picture with an ICC profile.",
    )
