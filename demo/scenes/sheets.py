"""Contact sheets of scenes: pictures with captions, or edits with their true masks and results."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from demo.scenes import scene

Cell = tuple[Sequence[Image.Image], str]

_MIN_SIDE = 192  # smaller pictures are enlarged without interpolation
_GAP, _LINE = 8, 14


def scene_sheet(seeds: Iterable[int], size: int) -> Image.Image:
    """Draw every scene with its caption."""
    scenes = [scene(seed, size) for seed in seeds]
    return _grid([([_enlarged(s.image)], f"{s.seed}: {s.caption}") for s in scenes], 8)


def edit_sheet(seeds: Iterable[int], size: int) -> Image.Image:
    """Draw one edit of every scene: the scene, the true mask and the ideal result."""
    cells: list[Cell] = []
    for n, seed in enumerate(seeds):
        source = scene(seed, size)
        edit = source.edits()[n % (2 * len(source.objects))]
        pictures = (source.image, edit.mask, source.edited(edit).image)
        text = f"{seed}: {edit.source}  ->  {edit.target}"
        cells.append(([_enlarged(p) for p in pictures], text))
    return _grid(cells, 3)


def _enlarged(picture: np.ndarray[tuple[int, ...], np.dtype[np.uint8 | np.bool_]]) -> Image.Image:
    pixels = picture * np.uint8(255) if picture.dtype == np.bool_ else picture
    side = len(picture) * -(-_MIN_SIDE // len(picture))
    return Image.fromarray(pixels).convert("RGB").resize((side, side), Image.Resampling.NEAREST)


def _grid(cells: Sequence[Cell], columns: int) -> Image.Image:
    """Arrange cells on a white page; each has a row of pictures and up to three lines of text."""
    pictures, side = len(cells[0][0]), cells[0][0][0].width
    width, height = pictures * (side + 2) + _GAP, side + 3 * _LINE + _GAP
    columns = min(columns, len(cells))
    rows = -(-len(cells) // columns)
    page = Image.new("RGB", (columns * width + _GAP, rows * height + _GAP), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(11)
    for n, (images, text) in enumerate(cells):
        x, y = _GAP + n % columns * width, _GAP + n // columns * height
        for i, image in enumerate(images):
            page.paste(image, (x + i * (side + 2), y))
        lines = "\n".join(textwrap.wrap(text, (width - _GAP) // 6)[:3])
        draw.text((x, y + side + 2), lines, fill="black", font=font, spacing=1)
    return page
