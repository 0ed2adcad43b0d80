"""Read a mask of any form by the values of its pixels. Every interface uses this module.

It decides which pixels are edited and resizes the mask to the photograph.
`diffedit.algorithm.mask` computes masks from texts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffedit.imaging import decode
from diffedit.imaging.mask_levels import (
    COLORED,
    HALF,
    Levels,
    check_levels,
    levels_of_colors,
    scaled,
    soft_warning,
)
from diffedit.imaging.mask_size import check_aspect, check_same_size
from diffedit.notices import Notice
from diffedit.request import InvalidRequest

if TYPE_CHECKING:
    from diffedit.request import ImageSource

SOFT_BLACK, SOFT_WHITE = 8, 248
"""Levels of a soft mask below the first count as black, from the second on as white: lossy formats
add noise."""
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
MaskFormat = Literal["auto", "alpha", "white", "black"]
MaskConvention = Literal["alpha", "white", "black"]
"""Which pixels of a mask are edited: transparent, white or black ones."""

SAMPLES = 500_000
"""Number of sampled pixels that decide whether a mask is a drawing."""
DRAWING_COLORS = 16
"""Maximum number of different colors in a drawing, at four bits per channel."""


@dataclass(frozen=True, eq=False)
class EditMask:
    """A mask that was read.

    Attributes:
        image: PIL L, 255 where the photograph is edited and 0 elsewhere, of its size. A soft mask
            is cut at half.
        read_as: which pixels of the file are edited.
        warnings: sentences for the user.
        soft: PIL L of the photograph's size, the opacity of the edit at each pixel; None if the
            mask is black and white.
        border: PIL L of the photograph's size, the maximum opacity at each pixel; for computed
            masks whose border follows the picture, else None.
    """

    image: Image.Image
    read_as: MaskConvention
    warnings: tuple[Notice, ...] = ()
    soft: Image.Image | None = None
    border: Image.Image | None = None

    @property
    def area(self) -> Image.Image:
        """PIL L, 255 for every pixel whose opacity is above 0."""
        return self.image if self.soft is None else self.soft.point([0] + [255] * 255)


@dataclass(frozen=True)
class MaskRules:
    """How to read a mask.

    Attributes:
        mask_format: "alpha": transparent pixels are edited. "white" or "black": pixels lighter or
            darker than middle grey. "auto": decided by the values of the pixels.
        alpha_decides: in "auto", transparent pixels are always edited, as in OpenAI's API. If
            False, a mask that could be read in two ways is refused.
        same_size: refuse a mask that is not exactly as large as the photograph.
        max_pixels: refuse larger masks.
    """

    mask_format: MaskFormat = "auto"
    alpha_decides: bool = False
    same_size: bool = False
    max_pixels: int = decode.MAX_PIXELS


def read_mask(
    source: ImageSource | EditMask,
    size: tuple[int, int],
    *,
    stored_size: tuple[int, int] | None = None,
    rules: MaskRules | None = None,
) -> EditMask:
    """Read a mask for a photograph. The values of its pixels decide how it is read.

    - a photograph with a hole: transparent pixels are edited;
    - opaque, white on black (also 0 and 1, 16 bits, fractions): white is edited;
    - grey: soft, with a warning; cut at half if only borders are grey.

    Args:
        source: PIL image, path, contents of a file, or an array [H, W], [H, W, 3] or [H, W, 4] of
            bool, whole numbers or fractions. An `EditMask` is returned as it is.
        size: (width, height) of the photograph, upright.
        stored_size: (width, height) of the photograph before its EXIF orientation was applied.
        rules: by default those of the command line and the Python API.

    Raises:
        InvalidRequest: the mask cannot be opened, is black everywhere, is a photograph, a label
            map or a drawing in color, has another aspect ratio, or could be read in two ways.
    """
    if isinstance(source, EditMask):
        check_aspect(source.image.size, size, stored_size)
        if source.image.size == tuple(size):
            return source
        soft = None if source.soft is None else _scaled(source.soft, size)
        return replace(source, image=_resized(source.image, size), soft=soft)
    rules = rules or MaskRules()
    if isinstance(source, np.ndarray):
        source = _from_array(source)
    image = decode.decoded(source, "mask", rules.max_pixels).image
    if rules.same_size:
        check_same_size(image.size, size, stored_size)
    else:
        check_aspect(image.size, size, stored_size)
    levels, read_as = _selected(image, rules)
    warning = soft_warning(levels)
    picture = Image.fromarray(levels)
    if warning is None:
        return EditMask(_resized(picture, size), read_as)
    return EditMask(_resized(picture, size), read_as, (warning,), _soft(picture, size))


def stored_mask(data: bytes, size: tuple[int, int]) -> EditMask:
    """Read a mask that `metadata.pack_mask` packed, for a photograph of the same aspect ratio.

    Raises:
        InvalidRequest: the data is damaged, or another aspect ratio.
    """
    image = decode.decoded(data, "mask", decode.MAX_PIXELS).image
    if image.mode == "1":
        return read_mask(data, size)
    check_aspect(image.size, size, None)
    picture = image.convert("L")
    return EditMask(_resized(picture, size), "white", (), _scaled(picture, size))


def _soft(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Levels of the photograph's size, without the noise of lossy formats."""
    levels = [0 if v < SOFT_BLACK else 255 if v >= SOFT_WHITE else v for v in range(256)]
    return _scaled(mask, size).point(levels)


def _scaled(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Levels resized to the photograph."""
    if mask.size == tuple(size):
        return mask
    return mask.resize(size, Image.Resampling.BILINEAR)


def _resized(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize levels to the photograph and cut them at half."""
    cut = _scaled(mask, size).point([0] * HALF + [255] * (256 - HALF))
    if cut.getbbox() is None:
        raise _refused(
            "The mask selects nothing: its white area disappears when the mask is scaled to the "
            "size of the picture; make that area larger.",
            "empty_mask",
        )
    return cut


def _from_array(array: NDArray[Any]) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise _refused(
            f"The mask is an array of shape {array.shape}, but must be [H, W], [H, W, 3] or "
            "[H, W, 4]; convert it.",
            "not_a_mask",
        )
    if not array.size:
        return Image.new("L", (0, 0))
    return Image.fromarray(scaled(array))


def _selected(image: Image.Image, rules: MaskRules) -> tuple[Levels, MaskConvention]:
    """Return levels, 255 = edited, and how they were read."""
    alpha = None
    if image.has_transparency_data:
        image = image.convert("LA" if image.mode == "La" else image.mode).convert("RGBA")
        alpha = np.asarray(image.getchannel("A"))
    is_open = alpha is not None and bool((alpha < HALF).any())
    if rules.mask_format == "alpha" and not is_open:
        raise InvalidRequest(
            "mask_format is alpha, but the mask has no transparent pixels; pass white or black.",
            field="mask_format",
            code="mask_without_alpha",
        )
    if alpha is not None and is_open and rules.mask_format in ("auto", "alpha"):
        if rules.mask_format == "auto":
            _check_alpha(image, alpha, rules)
        return 255 - alpha, "alpha"
    is_black = rules.mask_format == "black"
    levels = check_levels(_opaque_levels(image, WHITE if is_black else BLACK))
    if not is_black:
        return levels, "white"
    if levels.min() >= HALF:
        raise _refused(
            "mask_format is black, but the mask has no black pixels, so it selects nothing; paint "
            "the area to edit black.",
            "empty_mask",
        )
    return 255 - levels, "black"


def _opaque_levels(image: Image.Image, background: tuple[int, int, int]) -> Levels:
    """Return the grey levels of the colors; transparent pixels show the background."""
    if image.mode == "F" or image.mode.startswith("I"):
        return scaled(np.asarray(image))
    if image.mode == "RGBA":
        opaque = Image.new("RGB", image.size, background)
        opaque.paste(image, mask=image.getchannel("A"))
        return levels_of_colors(opaque)
    if image.mode in ("L", "1"):
        return np.asarray(image.convert("L"))
    return levels_of_colors(image.convert("RGB"))


def _check_alpha(rgba: Image.Image, alpha: Levels, rules: MaskRules) -> None:
    """Raise InvalidRequest if it is not clear that the transparent pixels are edited."""
    if alpha.max() < HALF:
        raise _refused(
            "The mask is transparent everywhere, by half or more, so nothing shows which part is "
            "edited; paint that part white on black, or erase it from a copy of the picture.",
            "not_a_mask",
        )
    step = max(1, round((alpha.size / SAMPLES) ** 0.5))
    pixels, is_opaque = np.asarray(rgba)[::step, ::step], alpha[::step, ::step] >= HALF
    if rules.alpha_decides or not _is_drawing(pixels[is_opaque][:, :3]):
        return
    raise _refused(
        "The mask is a drawing on a transparent layer, so it is not clear whether the drawing or "
        "the transparent part is edited; fill the transparent part with black and paint the area "
        "to edit white, or pass --mask-format alpha (the transparent part) or white (white "
        "strokes).",
        "not_a_mask",
    )


def _is_drawing(colors: NDArray[np.uint8]) -> bool:
    """Whether opaque pixels, uint8 [n, 3], are brush strokes or white on black.

    A photograph has many colors or many greys, and a plain layer with a hole is dark.
    """
    packed = (colors >> 4).astype(np.uint16) @ np.array([256, 16, 1], np.uint16)
    counts = np.bincount(packed, minlength=4096)
    kinds = np.flatnonzero(counts > len(colors) / 1000)
    if len(kinds) > DRAWING_COLORS:
        return False
    channels = np.stack([kinds >> 8, kinds >> 4 & 15, kinds & 15]) * 16
    if (channels.max(axis=0) - channels.min(axis=0) > COLORED).any():
        return True
    grey = (channels[1] > 16) & (channels[1] < 224)
    if len(kinds) > 2 and counts[kinds[grey]].sum() > len(colors) / 20:
        return False
    return bool((channels[1] >= HALF).any())


def _refused(message: str, code: str) -> InvalidRequest:
    return InvalidRequest(message, field="mask_image", code=code)
