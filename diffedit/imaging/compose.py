"""Combine pictures: the edit into the photograph, the heatmap over it, a panel of all stages.

It does not compute positions on the canvas (`diffedit.imaging.geometry` does).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from diffedit.imaging.geometry import Placement

Box: TypeAlias = tuple[int, int, int, int]
"""(left, top, right, bottom) in pixels."""

HEAT = ((24, 15, 75), (101, 21, 110), (184, 40, 92), (236, 88, 51), (252, 170, 52), (252, 250, 178))
"""Colors of the heatmap from cold to hot, in even steps of lightness."""


def faded_area(mask: Image.Image, feather: int | None = None) -> tuple[Box, Image.Image] | None:
    """Return the box of an edit, and its opacity in that box.

    Args:
        mask: L, 0 or 255.
        feather: width in pixels of the fade, inwards from the mask's outline. The default is 1/256
            of the longer side, two pixels at 512.

    Returns: (left, top, right, bottom), and L of that size, 0 outside the mask; None for an empty
    mask.
    """
    box = mask.getbbox()
    if box is None:
        return None
    radius = round(max(mask.size) / 256) if feather is None else feather
    left, top, right, bottom = box
    box = (  # a margin for the blur, cut at the photograph's edge, where the edit does not fade
        max(0, left - radius),
        max(0, top - radius),
        min(mask.width, right + radius),
        min(mask.height, bottom + radius),
    )
    alpha = mask = mask.crop(box)
    if radius:  # a blurred straight outline is half white at the outline: fade from there inwards
        ramp = [max(0, 2 * v - 255) for v in range(256)]
        alpha = ImageChops.darker(mask.filter(ImageFilter.BoxBlur(radius)).point(ramp), mask)
    return box, alpha


def paste(
    picture: Image.Image, part: Image.Image, box: Box, alpha: Image.Image | None
) -> Image.Image:
    """Return a copy of a picture with a part of the same mode blended in at `box`."""
    result = picture.copy()
    result.paste(part, box, alpha)
    return result


def paste_deep(
    picture: NDArray[np.uint16],
    part: NDArray[np.uint16],
    box: Box,
    alpha: Image.Image | None,
) -> NDArray[np.uint16]:
    """As `paste`, for uint16 [H, W, C]."""
    left, top, right, bottom = box
    result = picture.copy()
    area = result[top:bottom, left:right]
    if alpha is None:
        area[:] = part
        return result
    opacity = np.asarray(alpha)
    area[opacity == 255] = part[opacity == 255]
    rim = (opacity > 0) & (opacity < 255)
    share = opacity[rim].astype(np.float64)[:, None] / 255
    area[rim] = (area[rim] + (part[rim] - area[rim].astype(np.float64)) * share).round()
    return result


def heatmap_overlay(
    photo: Image.Image, heatmap: NDArray[np.float32], placement: Placement, factor: int
) -> Image.Image:
    """Draw a heatmap over the gray photograph, interpolated; higher values are more opaque.

    Args:
        photo: RGB.
        heatmap: float32 [h, w] in [0, 1] on the latent grid.
        placement: position of the photograph on the canvas.
        factor: pixels per latent cell.
    """
    assert photo.size == placement.source[::-1]
    assert heatmap.shape == placement.cells(factor)
    levels = (np.nan_to_num(heatmap).clip(0, 1) * 255).round().astype(np.uint8)
    rows, columns = placement.rows, placement.columns
    edges = columns.start, rows.start, columns.stop, rows.stop
    box = tuple(edge / factor for edge in edges)
    heat = Image.fromarray(levels).resize(photo.size, Image.Resampling.BILINEAR, box=box)
    anchors = np.linspace(0, 255, len(HEAT))
    palette = [np.interp(np.arange(256), anchors, channel) for channel in zip(*HEAT, strict=True)]
    color = heat.copy()
    color.putpalette(np.stack(palette, axis=1).round().astype(np.uint8).tobytes())
    gray = photo.convert("L").convert("RGB")
    opacity = heat.point([round(70 + 150 * v / 255) for v in range(256)])
    return Image.composite(color.convert("RGB"), gray, opacity)


def panel(
    photo: Image.Image,
    overlay: Image.Image,
    mask: Image.Image,
    result: Image.Image,
    labels: Sequence[str] = ("input", "where the texts differ", "mask", "result"),
) -> Image.Image:
    """Draw four pictures side by side, at most 384 pixels high, each below its label."""
    scale = min(384 / photo.height, 640 / photo.width)
    size = max(1, round(photo.width * scale)), max(1, round(photo.height * scale))
    resampling = Image.Resampling.LANCZOS if scale < 2 else Image.Resampling.NEAREST
    font = ImageFont.load_default(17)
    gap, label_height = 12, 34
    widths = [max(size[0], math.ceil(font.getlength(label))) for label in labels]
    sheet_size = sum(widths) + gap * (len(widths) + 1), label_height + size[1] + gap
    sheet = Image.new("RGB", sheet_size, (250, 250, 248))
    draw = ImageDraw.Draw(sheet)
    left = gap
    pictures = (photo, overlay, mask, result)
    for picture, label, width in zip(pictures, labels, widths, strict=True):
        draw.text((left, label_height // 2), label, fill=(60, 60, 64), font=font, anchor="lm")
        small = picture.convert("RGB").resize(size, resampling, reducing_gap=3.0)
        sheet.paste(small, (left, label_height))
        left += width + gap
    return sheet
