"""Convert pictures from their color space to sRGB for the networks, and back.

It handles ICC profiles and PNG's gamma for 8-bit grey and RGB. It reads no files.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageCms

from diffedit.notices import Notice

PROFILE_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}
"""Mode of the pixels -> color space of an ICC profile for them."""
MAX_PROFILE = 2**20
"""Longest profile in bytes that Pillow reads from a PNG."""
SRGB_GAMMA = 1 / 2.2


@dataclass(frozen=True)
class ColorSpace:
    """The color space of a picture; sRGB without profile and gamma.

    Attributes:
        icc: ICC profile for the mode of the pixels.
        gamma: exponent of PNG's gAMA chunk, if it is not that of sRGB.
    """

    icc: bytes | None = None
    gamma: float | None = None

    def to_srgb(self, image: Image.Image) -> Image.Image:
        """Convert L, RGB or CMYK to RGB. RGB in sRGB is returned as it is."""
        if self.icc is not None:
            return _converted(image, "RGB", icc=self.icc, reverse=False)
        rgb = image if image.mode == "RGB" else image.convert("RGB")
        return _with_exponent(rgb, SRGB_GAMMA / (self.gamma or SRGB_GAMMA))

    def from_srgb(self, rgb: Image.Image, mode: str) -> Image.Image:
        """Convert RGB in sRGB to mode L or RGB in this color space."""
        if mode == "L":
            rgb = rgb.convert("L").convert("RGB")
        if self.icc is not None:
            return _converted(rgb, mode, icc=self.icc, reverse=True)
        return _with_exponent(rgb, (self.gamma or SRGB_GAMMA) / SRGB_GAMMA).convert(mode)


def color_space(info: Mapping[Any, Any], mode: str) -> tuple[ColorSpace, Notice | None]:
    """Return the color space that a file states, and a warning if it is ignored.

    Args:
        info: PIL's `.info` of the picture.
        mode: "L", "RGB" or "CMYK".
    """
    icc = info.get("icc_profile")
    if icc:
        problem = _problem(icc, mode)
        if problem is None:
            return ColorSpace(icc), None
        return ColorSpace(), Notice(
            "profile_ignored",
            f"The color profile of the picture {problem}; its colors are read as sRGB, and the "
            "result has no profile.",
        )
    gamma = info.get("gamma")
    if "srgb" in info or not gamma or abs(SRGB_GAMMA / gamma - 1) <= 0.05:
        return ColorSpace(), None
    return ColorSpace(gamma=gamma), None


def is_reversible(space: ColorSpace, mode: str) -> bool:
    """Whether results can be converted to the color space and stored with its profile."""
    if space.icc is None:
        return True
    try:
        space.from_srgb(Image.new("RGB", (1, 1)), mode)
    except (ImageCms.PyCMSError, ValueError):
        return False
    return len(space.icc) <= MAX_PROFILE


def _problem(icc: bytes, mode: str) -> str | None:
    """Return why a profile cannot be used, or None."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        actual = profile.profile.xcolor_space.strip()
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return "is damaged"
    except ImportError:
        return "cannot be used because Pillow was built without LittleCMS"
    if actual != PROFILE_SPACES[mode]:
        return f"is for {actual} pixels, but the picture has {PROFILE_SPACES[mode]} pixels"
    try:
        ColorSpace(icc).to_srgb(Image.new(mode, (1, 1)))
    except (ImageCms.PyCMSError, OSError, ValueError):
        return "is damaged"
    return None


def _with_exponent(rgb: Image.Image, exponent: float) -> Image.Image:
    if exponent == 1:
        return rgb
    return rgb.point([round(255 * (v / 255) ** exponent) for v in range(256)] * 3)


def _converted(image: Image.Image, mode: str, *, icc: bytes, reverse: bool) -> Image.Image:
    """Convert between a profile and sRGB. Profiles that are sRGB within rounding change nothing."""
    profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    srgb = ImageCms.createProfile("sRGB")
    own = mode if reverse else image.mode
    if own != "CMYK" and _is_srgb(_transform(profile, srgb, own, "RGB"), own):
        return image if image.mode == mode else image.convert(mode)
    source, target = (srgb, profile) if reverse else (profile, srgb)
    return _applied(_transform(source, target, image.mode, mode), image)


def _transform(source: Any, target: Any, mode: str, target_mode: str) -> Any:
    """Relative colorimetric with black point compensation: colors of both gamuts are kept."""
    return ImageCms.buildTransform(
        source,
        target,
        mode,
        target_mode,
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )


def _is_srgb(transform: Any, mode: str) -> bool:
    """Whether a transform to sRGB changes a grid of colors by at most rounding."""
    if mode == "L":
        grid = Image.linear_gradient("L")
    else:
        colors = np.mgrid[:9, :9, :9].reshape(3, -1).T.astype(np.uint8) * 31
        grid = Image.fromarray(colors.reshape(27, 27, 3))
    difference = ImageChops.difference(grid.convert("RGB"), _applied(transform, grid))
    return bool(np.asarray(difference).max() <= 2)


def _applied(transform: Any, image: Image.Image) -> Image.Image:
    result = ImageCms.applyTransform(image, transform)
    assert result is not None  # None is returned by in-place calls only
    return result
