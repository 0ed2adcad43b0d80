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
"""Minimum of a window's sides, as a share of the canvas's sides, in pixels of the photograph. In a
smaller window the model cannot recognise the content."""


def window_around(box: Box, photo: tuple[int, int], canvas: Size, context: float) -> Box:
    """Return the window to edit at the resolution of the canvas.

    The window has the canvas's aspect ratio. At the photograph's border it is shifted, not padded.
    If the photograph is smaller than the window, the window ends at both borders.

    Args:
        box: of the mask, in the photograph.
        photo: (width, height).
        canvas: (height, width) of the networks' input.
        context: sides of the window, relative to the box; at least 1.

    Examples:
        >>> window_around((400, 300, 500, 400), (1000, 800), canvas=(512, 512), context=1.5)
        (375, 275, 525, 425)
        >>> window_around((0, 0, 100, 50), (4000, 3000), canvas=(512, 512), context=1.5)
        (0, 0, 150, 150)
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
    """Whether focus="auto" uses a window: the mask is small, and the photograph is larger than the
    canvas, so that a window has more detail."""
    left, top, right, bottom = box
    is_small = right - left < AUTO_SHARE * photo[0] and bottom - top < AUTO_SHARE * photo[1]
    return is_small and min(canvas[1] / photo[0], canvas[0] / photo[1]) < 1


def enlargement(window: Box, photo: tuple[int, int], canvas: Size) -> float:
    """The scale at which the networks see a window, relative to that of the whole photograph."""
    left, top, right, bottom = window
    whole = min(canvas[1] / photo[0], canvas[0] / photo[1])
    return min(canvas[1] / (right - left), canvas[0] / (bottom - top)) / whole
