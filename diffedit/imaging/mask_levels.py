"""Scale the values of a mask to 0 to 255, and refuse pictures that are not masks.

`diffedit.imaging.mask_reader` reads files and transparency.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter

from diffedit.notices import Notice
from diffedit.request import InvalidRequest

Levels = NDArray[np.uint8]
"""uint8 [H, W], 0 to 255."""

HALF = 128
"""Lowest level that is selected."""
GREY = range(32, 224)
"""Levels that count as grey; others are black or white with the noise of a lossy format."""
BORDER = 3
"""Grey pixels within this distance of both black and white are an antialiased border."""
SOFT_SHARE = 0.001
"""A mask with a larger share of grey pixels apart from such borders is soft."""
MOSTLY_GREY = 0.95
"""A picture with a larger share of grey pixels is not a mask."""
COLORED = 48
"""A pixel whose channels differ by more has a color."""
COLORED_SHARE = 0.0001
MAX_LABELS = 64
DARK_LABEL = 63


def scaled(values: NDArray[Any]) -> Levels:
    """Scale an array of any number type to uint8, by the values that it holds.

    Whole numbers are scaled by the smallest of 255, 65535 and 2**31 - 1 that none exceeds,
    fractions by 1 or 255. Whole numbers up to 255, also 0 and 1, are returned as they are.

    Raises:
        InvalidRequest: not numbers, negative, not finite, or too large.
    """
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind not in "iuf":
        raise _bad_values(f"is an array of {values.dtype}")
    low, high = values.min(), values.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise _bad_values("contains NaN or infinity")
    whole = values.dtype.kind != "f"
    white = next((w for w in ((255, 65535, 2**31 - 1) if whole else (1, 255)) if high <= w), None)
    if low < 0 or white is None:
        raise _bad_values(f"holds values from {low:g} to {high:g}")
    if whole and white == 255:
        return values.astype(np.uint8)
    levels: Levels = (values.astype(np.float64) * (255 / white)).round().astype(np.uint8)
    return levels


def _bad_values(problem: str) -> InvalidRequest:
    return InvalidRequest(
        f"The mask {problem}, but must hold True and False, 0 to 1, or 0 to 255; convert it.",
        field="mask_image",
    )


def levels_of_colors(rgb: Image.Image) -> Levels:
    """Return the grey levels of an RGB mask.

    Raises:
        InvalidRequest: it has colors, so it is a photograph, a label map or strokes of a brush.
    """
    red, green, blue = rgb.split()
    if all(ImageChops.difference(red, other).getbbox() is None for other in (green, blue)):
        return np.asarray(red)
    high = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    low = ImageChops.darker(ImageChops.darker(red, green), blue)
    colored = sum(ImageChops.subtract(high, low).histogram()[COLORED + 1 :])
    if colored > max(1, COLORED_SHARE * rgb.width * rgb.height):
        raise InvalidRequest(_color_message(rgb), field="mask_image", code="not_a_mask")
    return np.asarray(rgb.convert("L"))


def _color_message(rgb: Image.Image) -> str:
    values = np.asarray(rgb) >> 4
    kinds = len(np.unique(values.astype(np.uint16) @ np.array([256, 16, 1], np.uint16)))
    if kinds > MAX_LABELS:
        return (
            "The mask looks like a photograph: it has many colors and no transparent pixels; pass "
            "a picture that is white where the photograph is edited and black elsewhere, or the "
            "photograph with that area erased to transparency."
        )
    return (
        f"The mask has {kinds} colors, like a label map or brush strokes, so it is not clear which "
        "of them to edit; paint the area to edit white and everything else black."
    )


def check_levels(levels: Levels) -> Levels:
    """Return the levels with 0 and 1 scaled to 0 and 255.

    Raises:
        InvalidRequest: nothing is selected, or the levels are numbers of labels.
    """
    found = np.flatnonzero(Image.fromarray(levels).histogram())
    highest = int(found[-1])
    if highest == 0:
        raise _refused(
            "The mask is black everywhere, so it selects nothing; paint the area to edit white.",
            "empty_mask",
        )
    if highest == 1:
        return levels * np.uint8(255)
    if 3 <= len(found) <= MAX_LABELS and _are_labels(flat_levels(levels)):
        some = ", ".join(map(str, found[:8])) + (", ..." if len(found) > 8 else "")
        raise _refused(
            f"The mask has {len(found)} different values ({some}), like a label map, so it is not "
            "clear which of them to edit; write 255 in the area to edit and 0 elsewhere.",
            "not_a_mask",
        )
    if highest < HALF:
        raise _refused(
            f"The mask selects nothing: its highest value is {highest}, and values from {HALF} to "
            "255 are edited; paint the area to edit white (255).",
            "empty_mask",
        )
    return levels


def _refused(message: str, code: str) -> InvalidRequest:
    return InvalidRequest(message, field="mask_image", code=code)


def flat_levels(levels: Levels) -> NDArray[np.intp]:
    """Return the levels that fill areas: equal to their left and upper neighbors often enough."""
    if min(levels.shape) < 2:
        return np.flatnonzero(np.bincount(levels.ravel(), minlength=256))
    inner = levels[1:, 1:]
    same = (inner == levels[1:, :-1]) & (inner == levels[:-1, 1:])
    counts = np.bincount(inner[same], minlength=256)
    return np.flatnonzero(counts > max(3, SOFT_SHARE * levels.size))


def _are_labels(flat: NDArray[np.intp]) -> bool:
    """Whether areas of these levels are labels: five or more, or dark ones beside 0 and 255."""
    return len(flat) >= 5 or (len(flat) >= 3 and bool(flat[-2] <= DARK_LABEL))


def soft_warning(levels: Levels) -> Notice | None:
    """Return the warning about a soft mask, None for black and white with antialiased borders.

    Raises:
        InvalidRequest: nearly everything is grey.
    """
    mask = Image.fromarray(levels)
    grey = mask.point([255 if v in GREY else 0 for v in range(256)])
    count = grey.histogram()[255]
    if count > MOSTLY_GREY * levels.size:
        raise _refused(
            f"{count / levels.size:.1%} of the mask is grey, like a photograph or a depth map; "
            "pass a picture that is white where the photograph is edited and black elsewhere.",
            "not_a_mask",
        )
    if count <= SOFT_SHARE * levels.size or not _is_soft(mask, grey):
        return None
    return Notice(
        "soft_mask",
        f"{count:,} pixels of the mask ({count / levels.size:.1%}) are grey, so the mask is soft: "
        "darker grey is edited less. Pass a black and white mask to edit every pixel fully.",
    )


def _is_soft(mask: Image.Image, grey: Image.Image) -> bool:
    """Whether too many grey pixels are not near both black and white."""
    black = mask.point([255 if v < GREY.start else 0 for v in range(256)])
    white = mask.point([255 if v >= GREY.stop else 0 for v in range(256)])
    near = [part.filter(ImageFilter.BoxBlur(BORDER)).point(_ANY) for part in (black, white)]
    apart = ImageChops.subtract(grey, ImageChops.darker(*near))
    return apart.histogram()[255] > SOFT_SHARE * mask.width * mask.height


_ANY = [0] + [255] * 255
