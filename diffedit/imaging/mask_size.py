"""Whether the size of a mask fits the photograph. Sizes are (width, height) in pixels.

`stored` is the size of the photograph before its EXIF orientation was applied, or None.
"""

from __future__ import annotations

from diffedit.request import InvalidRequest


def check_same_size(
    mask: tuple[int, int], photo: tuple[int, int], stored: tuple[int, int] | None
) -> None:
    """Raise InvalidRequest unless the mask is as large as the photograph."""
    if mask != tuple(photo):
        raise InvalidRequest(
            f"The mask has {mask[0]} x {mask[1]} pixels, but the image has {photo[0]} x {photo[1]}"
            f"{_turn_hint(mask, photo, stored)}; send a mask of the same size.",
            field="mask_image",
            code="mask_size",
        )


def check_aspect(
    mask: tuple[int, int], photo: tuple[int, int], stored: tuple[int, int] | None
) -> None:
    """Raise InvalidRequest unless either side fits the photograph's aspect ratio."""
    if not _has_aspect(mask, photo):
        raise InvalidRequest(
            f"The mask has {mask[0]} x {mask[1]} pixels, another aspect ratio than the picture's "
            f"{photo[0]} x {photo[1]}{_turn_hint(mask, photo, stored)}; crop or pad the mask to "
            "the picture's aspect ratio.",
            field="mask_image",
            code="mask_size",
        )


def _has_aspect(mask: tuple[int, int], photo: tuple[int, int]) -> bool:
    """Whether one side differs by at most a pixel or a percent from the photograph's aspect."""
    expected = mask[1] * photo[0] / photo[1], mask[0] * photo[1] / photo[0]
    return any(
        abs(side - exact) <= max(1, 0.01 * exact)
        for side, exact in zip(mask, expected, strict=True)
    )


def _turn_hint(
    mask: tuple[int, int], photo: tuple[int, int], stored: tuple[int, int] | None
) -> str:
    """Return a hint in brackets that the mask may be turned by 90 degrees, or ""."""
    if not _has_aspect(mask[::-1], photo):
        return ""
    if stored is not None and tuple(stored) != tuple(photo):
        return (
            " (the picture's EXIF orientation turns it, and the mask was probably drawn on the "
            "unturned pixels: turn the mask by 90 degrees in the same direction)"
        )
    return " (it fits when it is turned by 90 degrees)"
