"""Combine pictures: the edit into the photograph, the heatmap over it, a panel of all stages.

It draws; it does not decide where pictures lie (`diffedit.imaging.geometry`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from diffedit.imaging.geometry import Placement

HEAT = ((24, 15, 75), (101, 21, 110), (184, 40, 92), (236, 88, 51), (252, 170, 52), (252, 250, 178))
"""Anchors of the heatmap's colours, cold to hot, lightness rising evenly."""


def composite(
    photo: Image.Image, edited: Image.Image, mask: Image.Image, *, feather: int | None = None
) -> Image.Image:
    """`edited` where the mask is white; everywhere else the photograph's pixels, bit for bit.

    Args:
        photo, edited: RGB of one size.
        mask: L, 0 or 255, of that size.
        feather: pixels over which the edit fades in, inwards from the mask's outline; by default
            a 256th of the longer side, which is two pixels of a 512 pixel canvas.
    """
    assert photo.size == edited.size == mask.size
    result = photo.copy()
    box = mask.getbbox()
    if box is None:
        return result
    reach = round(max(photo.size) / 256) if feather is None else feather
    left, top, right, bottom = box
    box = (  # with a margin, so that the blur sees where the mask ends; the photo's edge is none
        max(0, left - reach),
        max(0, top - reach),
        min(photo.width, right + reach),
        min(photo.height, bottom + reach),
    )
    alpha = mask = mask.crop(box)
    if reach:  # half of a blurred straight outline lies outside: from there on the ramp begins
        ramp = [max(0, 2 * v - 255) for v in range(256)]
        alpha = ImageChops.darker(mask.filter(ImageFilter.BoxBlur(reach)).point(ramp), mask)
    result.paste(edited.crop(box), box, alpha)
    return result


def heatmap_overlay(
    photo: Image.Image, heatmap: NDArray[np.float32], p: Placement, factor: int
) -> Image.Image:
    """The heatmap, [h, w] in [0, 1], smoothly over the greyed photograph; hotter is more opaque."""
    assert photo.size == p.source[::-1]
    assert heatmap.shape == p.cells(factor)
    levels = (np.nan_to_num(heatmap).clip(0, 1) * 255).round().astype(np.uint8)
    right, bottom = p.left + p.fitted[1], p.top + p.fitted[0]
    box = p.left / factor, p.top / factor, right / factor, bottom / factor
    heat = Image.fromarray(levels).resize(photo.size, Image.Resampling.BILINEAR, box=box)
    anchors = np.linspace(0, 255, len(HEAT))
    table = [np.interp(np.arange(256), anchors, channel) for channel in zip(*HEAT, strict=True)]
    color = heat.copy()
    color.putpalette(np.stack(table, axis=1).round().astype(np.uint8).tobytes())
    grey = photo.convert("L").convert("RGB")
    opacity = heat.point([round(70 + 150 * v / 255) for v in range(256)])
    return Image.composite(color.convert("RGB"), grey, opacity)


def panel(
    photo: Image.Image,
    overlay: Image.Image,
    mask: Image.Image,
    result: Image.Image,
    labels: Sequence[str] = ("input", "where the texts differ", "mask", "result"),
) -> Image.Image:
    """The four pictures side by side, at most 384 pixels high, each under its caption."""
    scale = min(384 / photo.height, 640 / photo.width)
    size = max(1, round(photo.width * scale)), max(1, round(photo.height * scale))
    how = Image.Resampling.LANCZOS if scale < 2 else Image.Resampling.NEAREST
    font = ImageFont.load_default(17)
    gap, line = 12, 34
    widths = [max(size[0], math.ceil(font.getlength(label))) for label in labels]
    sheet = Image.new(
        "RGB", (sum(widths) + gap * (len(widths) + 1), size[1] + line + gap), (250, 250, 248)
    )
    draw = ImageDraw.Draw(sheet)
    left = gap
    pictures = (photo, overlay, mask, result)
    for picture, label, width in zip(pictures, labels, widths, strict=True):
        draw.text((left, line // 2), label, fill=(60, 60, 64), font=font, anchor="lm")
        sheet.paste(picture.convert("RGB").resize(size, how, reducing_gap=3.0), (left, line))
        left += width + gap
    return sheet
