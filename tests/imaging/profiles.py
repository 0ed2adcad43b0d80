"""ICC profiles made for the tests."""

from __future__ import annotations

import struct

SRGB_PRIMARIES = [(0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)]


def _fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(v * 65536)) for v in values)


def _curve(curve: list[int]) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(f">I{len(curve)}H", len(curve), *curve)


def icc_profile(curve: list[int], primaries: list[tuple[float, float, float]]) -> bytes:
    """An ICC v2 matrix profile from a tone curve (0 to 65535) and the primaries in D50 XYZ."""
    tags = {}
    for letter, xyz in zip(b"rgb", primaries, strict=True):
        tags[bytes([letter]) + b"XYZ"] = b"XYZ \0\0\0\0" + _fixed(*xyz)
        tags[bytes([letter]) + b"TRC"] = _curve(curve)
    return _profile(tags, b"RGB ")


def grey_profile(gamma: float) -> bytes:
    """An ICC v2 profile for grey pixels."""
    return _profile({b"kTRC": _curve([round(gamma * 256)])}, b"GRAY")


def _profile(tags: dict[bytes, bytes], space: bytes) -> bytes:
    tags = {b"wtpt": b"XYZ \0\0\0\0" + _fixed(0.9642, 1.0, 0.8249), **tags}
    tags[b"desc"] = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(78 + 1)
    tags[b"cprt"] = b"text\0\0\0\0none\0\0\0\0"
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    header = struct.pack(">I4s", start + len(body), b"lcms") + b"\x02\x40\0\0mntr" + space + b"XYZ "
    header += struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    header += _fixed(0.9642, 1.0, 0.8249)
    return header + bytes(128 - len(header)) + table + body


P3 = icc_profile(
    [round(2.2 * 256)],
    [(0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841)],
)
"""Similar to Apple's Display P3."""
