"""A photograph in its own color space and depth: read it, convert it to sRGB, insert an edit.

The networks use 8-bit sRGB. Outside the mask a result has the values of the photograph's file: its
color space, transparency and 16 bits are kept. `diffedit.imaging.decode` opens files, and
`diffedit.imaging.encode` writes them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageChops

from diffedit.imaging import compose, decode, deep
from diffedit.imaging.color import ColorSpace, color_space, is_reversible
from diffedit.imaging.deep import Deep
from diffedit.imaging.exif import Metadata, has_iptc
from diffedit.notices import Notice
from diffedit.request import InvalidRequest

if TYPE_CHECKING:
    from diffedit.request import ImageSource

GREY_MODES = ("L", "LA")
ALPHA_MODES = {"La": "LA", "LA": "LA", "L": "LA"}
"""Mode -> mode of the same picture with alpha; all others become RGBA."""
EXACT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX")
"""Modes whose values are kept; they may be stored differently."""
OTHER_SPACES = ("LAB", "HSV", "YCbCr")


@dataclass(frozen=True, eq=False)
class Photograph:
    """A photograph, upright.

    Attributes:
        values: the pixels in its own color space: PIL L, LA, RGB or RGBA, or uint16 [H, W, C] if
            the file has 16 bits a channel.
        color: that color space.
        metadata: EXIF and resolution.
        stored_size: (width, height) before the EXIF orientation was applied.
        warnings: sentences about what is lost.
    """

    values: Image.Image | Deep
    color: ColorSpace = field(default_factory=ColorSpace)
    metadata: Metadata = field(default_factory=Metadata)
    stored_size: tuple[int, int] | None = None
    warnings: tuple[Notice, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(width, height), as PIL's `.size`."""
        values = self.values
        return values.size if isinstance(values, Image.Image) else values.shape[1::-1]

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        values = self.values
        if isinstance(values, Image.Image):
            return values.width * values.height * len(values.getbands())
        return values.nbytes

    @functools.cached_property
    def eight_bit(self) -> Image.Image:
        """The values as PIL L, LA, RGB or RGBA. Do not modify it."""
        values = self.values
        return values if isinstance(values, Image.Image) else deep.to_eight_bits(values)

    @property
    def base_mode(self) -> str:
        """Mode without alpha: L or RGB."""
        return "L" if self.eight_bit.mode in GREY_MODES else "RGB"

    @property
    def has_alpha(self) -> bool:
        return self.eight_bit.mode[-1] == "A"

    @functools.cached_property
    def rgb(self) -> Image.Image:
        """The networks' input: RGB in sRGB, transparent pixels on white. Do not modify it."""
        if not self.has_alpha:
            return self.color.to_srgb(self.eight_bit)
        rgb = self.color.to_srgb(self.eight_bit.convert(self.base_mode))
        white = Image.new("RGB", self.size, (255, 255, 255))
        white.paste(rgb, mask=self.eight_bit.getchannel("A"))
        return white

    @property
    def image(self) -> Image.Image:
        """A copy of the values, as PIL shows them: 16-bit grey as I;16, other 16 bits cut to 8.

        `.info` has the ICC profile.
        """
        values = self.values
        if isinstance(values, Image.Image):
            image = values.copy()
        elif values.shape[2] == 1:
            image = Image.fromarray(values[..., 0])
        else:
            image = deep.from_channels((values >> 8).astype(np.uint8))
        image.info = {} if self.color.icc is None else {"icc_profile": self.color.icc}
        return image


def read(source: ImageSource | Photograph, *, max_pixels: int = decode.MAX_PIXELS) -> Photograph:
    """Decode a picture of any mode, upright.

    Args:
        source: PIL image (not modified), path, file contents, or uint8 [H, W, 3]. A `Photograph` is
            returned as it is.
        max_pixels: reject larger pictures from their header, before decoding.

    Raises:
        InvalidRequest: the source is missing, damaged, too large or in an unsupported format.
    """
    if isinstance(source, Photograph):
        return source
    if isinstance(source, np.ndarray) and (source.ndim != 3 or source.shape[2] != 3):
        raise InvalidRequest(
            f"The picture is an array of shape {source.shape}, but must be [H, W, 3]; convert it "
            "to three color channels on the last axis.",
            field="image",
        )
    decoded = decode.decoded(source, "picture", max_pixels)
    info = dict(decoded.image.info)
    values, warnings = _own_values(decoded)
    warnings += decoded.warnings
    if has_iptc(info) and decoded.metadata.xmp is None:
        sentence = (
            "The picture has IPTC data (caption, keywords, credits), which cannot be written; "
            "store it as XMP, which is kept."
        )
        warnings.append(Notice("iptc_dropped", sentence))
    if decoded.frames > 1:
        which = "the current one" if isinstance(source, Image.Image) else "the first"
        sentence = f"The picture has {decoded.frames} frames or pages; only {which} is edited, "
        sentence += "and the result has one."
        warnings.append(Notice("one_frame", sentence))
    photo = Photograph(values, stored_size=decoded.stored_size)
    space, warning = _color_space(decoded.image.mode, info, photo)
    warnings += [warning] if warning else []
    if decoded.image.mode == "CMYK":
        photo = replace(photo, values=space.to_srgb(decoded.image))
        space = ColorSpace()
    elif not is_reversible(space, photo.base_mode):
        sentence = (
            "Colors cannot be converted back to the profile of the picture, so the result is "
            "in sRGB and all of its values change."
        )
        warnings.append(Notice("converted_to_srgb", sentence))
        photo, space = _in_srgb(replace(photo, color=space)), ColorSpace()
    return replace(photo, color=space, metadata=decoded.metadata, warnings=tuple(warnings))


def _color_space(
    mode: str, info: dict[Any, Any], photo: Photograph
) -> tuple[ColorSpace, Notice | None]:
    if mode in OTHER_SPACES:
        return ColorSpace(), None  # converted to sRGB already
    return color_space(info, "CMYK" if mode == "CMYK" else photo.base_mode)


def _in_srgb(photo: Photograph) -> Photograph:
    """Convert all colors to 8-bit sRGB and keep the transparency."""
    rgb = photo.color.to_srgb(photo.eight_bit.convert(photo.base_mode))
    if photo.has_alpha:
        rgb.putalpha(photo.eight_bit.getchannel("A"))
    return replace(photo, values=rgb, color=ColorSpace())


def _own_values(decoded: decode.Decoded) -> tuple[Image.Image | Deep, list[Notice]]:
    """Return the values in one of the modes of `Photograph`, and warnings of what is lost."""
    image = decoded.image
    if image.mode == "F":
        raise InvalidRequest(
            "The picture has floating-point pixels, whose value range is not defined; convert it "
            "to 8 or 16 bits.",
            field="image",
        )
    color_key = image.info.get("transparency")
    values: Image.Image | Deep | None = decoded.deep
    warnings: list[Notice] = []
    if values is None and image.mode.startswith("I"):
        values, warning = deep.from_integers(image, decoded.bits)
        warnings += [warning] if warning else []
    if isinstance(values, Image.Image):
        return values, warnings
    if values is not None:
        warnings += [deep.DARK] if not warnings and deep.is_dark(values) else []
        if color_key is not None and values.shape[2] in (1, 3):
            values = deep.with_transparent_color(values, color_key)
        return values, warnings
    mode, target = image.mode, _target_mode(image)
    if mode not in EXACT_MODES:
        sentence = (
            f"The picture has mode {mode}, which cannot be edited; it is converted to "
            "{target}, which changes all of its values."
        )
        warnings.append(Notice("mode_converted", sentence))
    try:
        own = image if mode == target else image.convert(target)
    except ValueError:
        raise InvalidRequest(
            f"The picture has mode {mode}, which cannot be converted to RGB; save it as RGB.",
            field="image",
        ) from None
    own.info = {}
    return own, warnings


def _target_mode(image: Image.Image) -> str:
    if image.has_transparency_data:
        return ALPHA_MODES.get(image.mode, "RGBA")
    return "L" if image.mode in ("1", "L") else "RGB"


# -- edits -----------------------------------------------------------------------------------------


def edited(
    photo: Photograph,
    result: Image.Image | Callable[[compose.Box], Image.Image],
    blend: Image.Image | None,
    *,
    fill: bool = False,
) -> Photograph:
    """Insert an edit into a photograph. All other pixels keep their exact values.

    Args:
        photo: the photograph.
        result: RGB in sRGB of its size: `photo.rgb` with the edit; or a function that returns the
            part of it in a box.
        blend: L, the opacity of the edit at each pixel. None replaces every pixel.
        fill: make the area opaque. Otherwise transparent pixels stay transparent.
    """
    box = (0, 0, *photo.size) if blend is None else blend.getbbox()
    if box is None:
        return photo
    alpha = None if blend is None else blend.crop(box)
    part = result.crop(box) if isinstance(result, Image.Image) else result(box)
    pixels = _in_colors_of(photo, part, box, fill=fill)
    if isinstance(photo.values, Image.Image):
        values: Image.Image | Deep = compose.paste(photo.values, pixels, box, alpha)
    else:
        values = compose.paste_deep(photo.values, deep.from_eight_bits(pixels), box, alpha)
    return replace(photo, values=values)


def filled(photo: Photograph, blend: Image.Image, mask: Image.Image) -> Image.Image:
    """Remove the fade of a blend mask where the photograph is transparent, to leave no gap.

    Args:
        blend: L of the photograph's size. mask: L, 0 or 255, where it may be edited.
    """
    if not photo.has_alpha:
        return blend
    is_clear = photo.eight_bit.getchannel("A").point([255] * 255 + [0])
    return ImageChops.lighter(blend, ImageChops.darker(is_clear, mask))


def _in_colors_of(
    photo: Photograph, result: Image.Image, box: compose.Box, *, fill: bool
) -> Image.Image:
    """Convert a part of the result, RGB, to the mode and color space of the photograph."""
    if not photo.has_alpha:
        return photo.color.from_srgb(result, photo.base_mode)
    alpha = Image.new("L", result.size, 255)
    if not fill:
        alpha = photo.eight_bit.getchannel("A").crop(box)
        result = _without_white(result, alpha)
    own = photo.color.from_srgb(result, photo.base_mode)
    own.putalpha(alpha)
    return own


def _without_white(rgb: Image.Image, alpha: Image.Image) -> Image.Image:
    """Return the colors that give `rgb` when they are blended onto white with `alpha`."""
    if alpha.getextrema() == (255, 255):
        return rgb
    share = np.asarray(alpha, np.float32)[..., None] / 255
    colors = (np.asarray(rgb) - 255 * (1 - share)) / np.maximum(share, 1 / 255)
    return Image.fromarray(colors.round().clip(0, 255).astype(np.uint8))


def opaque(photo: Photograph) -> Photograph:
    """Blend transparent pixels onto white, in the photograph's own color space."""
    values = photo.values
    if not photo.has_alpha:
        return photo
    if not isinstance(values, Image.Image):
        return replace(photo, values=deep.on_white(values))
    white = Image.new(photo.base_mode, photo.size, "white")
    white.paste(values.convert(photo.base_mode), mask=values.getchannel("A"))
    return replace(photo, values=white)
