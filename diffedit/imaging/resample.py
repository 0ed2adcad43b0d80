"""Resample a part of a picture to the same pixels as the whole picture resampled at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

LANCZOS_RADIUS = 3.0
"""How far Pillow's widest filter reaches, in pixels of the smaller of the two pictures."""


@dataclass(frozen=True)
class Span:
    """Which pixels of a side of a picture give some pixels of the resampled side.

    The resampled span begins and ends where pixels of both sides meet. The filter's weights then
    are those of the whole side: equal where the quotient of the sides is a power of two, otherwise
    to 1e-13, which 8-bit pixels do not show.

    Attributes:
        read: the pixels that are read, with those that the filter reaches.
        sampled: the beginning and the end of the resampled span, within `read`.
        made: the number of pixels that it becomes.
        skipped: how many of them come before the first wanted one.
    """

    read: slice
    sampled: tuple[int, int]
    made: int
    skipped: int

    @classmethod
    def of(cls, start: int, stop: int, source: int, target: int) -> Span:
        """For the pixels `start` to `stop` of a side of `target` pixels made of `source` pixels."""
        if source == target:
            return cls(slice(start, stop), (0, stop - start), stop - start, 0)
        common = math.gcd(source, target)
        step, made = source // common, target // common
        first, last = start // made, -(-stop // made)
        reach = math.ceil(LANCZOS_RADIUS * max(1.0, source / target)) + 1
        read = slice(max(0, first * step - reach), min(source, last * step + reach))
        sampled = first * step - read.start, last * step - read.start
        return cls(read, sampled, (last - first) * made, start - first * made)
