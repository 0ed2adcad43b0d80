"""Geometry of focus: the part of a photograph around a mask that is edited at full resolution."""

from __future__ import annotations

import math
from typing import TypeAlias

from engine.netspec import Size

Box: TypeAlias = tuple[int, int, int, int]
"""(left, top, right, bottom) in pixels, as PIL's `crop` takes it."""

AUTO_SHARE = 0.4
"""focus="auto" needs a mask whose box has less than this share of both sides."""
MIN_SIDE = 1 / 4
"""A window's sides are at least this share of the canvas's, in pixels of the photograph: smaller
ones show too little for the model to recognise."""


def window_around(box: Box, photo: tuple[int, int], canvas: Size, context: float) -> Box:
    """Return the window to edit at the resolution of the canvas.

    It has the canvas's aspect ratio and is shifted at the photograph's border instead of padded.
    Where the photograph is too small for it, it ends at both borders.

    Args:
        box: of the mask, in the photograph.
        photo: (width, height).
        canvas: (height, width) of the networks' input.
        context: sides of the window, relative to the box; at least 1.
    """
    left, top, right, bottom = box
    height, width = canvas
    scale = max(context * (right - left) / width, context * (bottom - top) / height, MIN_SIDE)
    x0, x1 = _span(left, right, min(photo[0], math.ceil(scale * width)), photo[0])
    y0, y1 = _span(top, bottom, min(photo[1], math.ceil(scale * height)), photo[1])
    return x0, y0, x1, y1


def _span(start: int, end: int, length: int, limit: int) -> tuple[int, int]:
    """`length` pixels around the middle of [start, end), shifted into [0, limit)."""
    first = (start + end - length) // 2
    first = min(max(first, 0), limit - length)
    return first, first + length


def is_worthwhile(box: Box, photo: tuple[int, int], canvas: Size) -> bool:
    """Whether focus="auto" uses a window: the mask is small, and the canvas reduces the photograph
    so that a window shows more of it."""
    left, top, right, bottom = box
    is_small = right - left < AUTO_SHARE * photo[0] and bottom - top < AUTO_SHARE * photo[1]
    return is_small and min(canvas[1] / photo[0], canvas[0] / photo[1]) < 1


def enlargement(window: Box, photo: tuple[int, int], canvas: Size) -> float:
    """How many times more pixels a side the networks see of a window than of the photograph."""
    left, top, right, bottom = window
    whole = min(canvas[1] / photo[0], canvas[0] / photo[1])
    return min(canvas[1] / (right - left), canvas[0] / (bottom - top)) / whole
