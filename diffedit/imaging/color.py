"""Convert decoded images of any mode to 8-bit sRGB on an opaque background.

It handles bit depth, transparency, ICC profiles and PNG's gamma. It reads no files.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageChops, ImageCms

from diffedit.request import InvalidRequest

WHITE, BLACK = (255, 255, 255), (0, 0, 0)


def to_rgb(
    image: Image.Image, background: tuple[int, int, int], *, color_managed: bool = True
) -> Image.Image:
    """Return 8-bit RGB without metadata, transparent pixels blended onto `background`.

    Args:
        image: PIL image of any mode but "F".
        background: RGB color behind transparent pixels.
        color_managed: convert to sRGB through the embedded ICC profile or gamma. Masks hold
            values instead of colors and keep theirs.
    """
    if image.mode == "F":
        raise InvalidRequest(
            "The picture has floating-point pixels, whose value range is not defined; convert it "
            "to 8 or 16 bits."
        )
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    alpha = None
    if image.has_transparency_data:
        image = image.convert("LA" if image.mode == "La" else image.mode).convert("RGBA")
        alpha = image.getchannel("A")
    rgb = _to_srgb(image) if color_managed else image.convert("RGB")
    if alpha is not None:
        opaque = Image.new("RGB", image.size, background)
        opaque.paste(rgb, mask=alpha)
        rgb = opaque
    rgb.info = {}
    return rgb


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit gray (modes I;16 and I) to mode L; larger values are taken as 31 bits."""
    values = np.asarray(image).astype(np.int64).clip(0)
    white = 65535 if values.max() <= 65535 else 2**31 - 1
    gray = Image.fromarray(((values * 255 + white // 2) // white).astype(np.uint8))
    gray.info = {k: v for k, v in image.info.items() if k in ("icc_profile", "gamma", "srgb")}
    return gray


def _to_srgb(image: Image.Image) -> Image.Image:
    """Convert to sRGB through the embedded ICC profile, or through PNG's gamma."""
    if icc := image.info.get("icc_profile"):
        try:
            return _through_profile(image, icc)
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError, ImportError):
            pass  # broken profile, profile of another mode, or PIL without lcms: ignore it
    try:
        rgb = image.convert("RGB")
    except ValueError:
        raise InvalidRequest(
            f"The picture has mode {image.mode}, which cannot be converted to RGB; save it as RGB."
        ) from None
    exponent = 1 / (2.2 * (image.info.get("gamma") or 1 / 2.2))
    if "srgb" not in image.info and abs(exponent - 1) > 0.05:
        rgb = rgb.point([round(255 * (v / 255) ** exponent) for v in range(256)] * 3)
    return rgb


def _through_profile(image: Image.Image, icc: bytes) -> Image.Image:
    """Convert through an ICC profile; raises ImageCms errors if it does not fit the mode."""
    if image.mode in ("1", "P", "PA", "RGBA", "RGBX"):
        image = image.convert("RGB")
    profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    srgb = ImageCms.createProfile("sRGB")
    transform = ImageCms.buildTransform(profile, srgb, image.mode, "RGB")
    if image.mode == "RGB" and _is_srgb(transform):
        return image
    return _transformed(transform, image)


def _is_srgb(transform: ImageCms.ImageCmsTransform) -> bool:
    """Whether a transform to sRGB changes a 9 x 9 x 9 grid of colors by at most rounding."""
    colors = np.mgrid[:9, :9, :9].reshape(3, -1).T.astype(np.uint8) * 31
    grid = Image.fromarray(colors.reshape(27, 27, 3))
    difference = ImageChops.difference(grid, _transformed(transform, grid))
    return bool(np.asarray(difference).max() <= 2)


def _transformed(transform: ImageCms.ImageCmsTransform, image: Image.Image) -> Image.Image:
    result = ImageCms.applyTransform(image, transform)
    assert result is not None  # None is returned by in-place calls only
    return result
