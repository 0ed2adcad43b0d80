"""Sheets of edits to look at: input, heatmap, mask and result, with the two texts."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from benchmarks.quality.cases import Case, case
from diffedit.imaging import compose
from diffedit.imaging.geometry import Placement
from engine.errors import DiffEditError

Columns = Mapping[str, NDArray[Any]]

_TILE, _GAP, _TEXT = 128, 4, 330
_LINE = _TILE + _GAP
_JUDGED = {"kind_right": "kind", "colour_right": "colour", "others_right": "another object"}


def ranked(columns: Columns) -> NDArray[np.intp]:
    """Cases from best to worst: by success, then by the judge's confidence and the mask's IoU."""
    sure = columns["success"] * columns["confidence"] - (1 - columns["success"])
    parts = sum(columns[name] for name in _JUDGED)
    return np.argsort(-(sure + parts / 10 + columns["iou"] / 10), kind="stable")


def best_and_worst(columns: Columns, path: Path, count: int = 8) -> None:
    """The `count` best edits on the left, the worst on the right."""
    order = ranked(columns)
    halves = [order[:count], order[::-1][:count]]
    titles = [f"the {count} best of {len(order)}", f"the {count} worst"]
    strips = [strip(columns, half, title) for half, title in zip(halves, titles, strict=True)]
    width, height = sum(s.width for s in strips) + 24, max(s.height for s in strips)
    page = Image.new("RGB", (width, height), "white")
    page.paste(strips[0], (0, 0))
    page.paste(strips[1], (strips[0].width + 24, 0))
    save(page, path)


def chosen(columns: Columns, seeds: Sequence[int], path: Path) -> None:
    """The edits of these seeds. Raises DiffEditError for a seed that was not measured."""
    known = {int(seed): i for i, seed in enumerate(columns["seed"])}
    missing = [seed for seed in seeds if seed not in known]
    if missing:
        raise DiffEditError(
            f"--show has seed {missing[0]}, but the edits measured are those of "
            f"{min(known)} to {max(known)}."
        )
    save(strip(columns, [known[seed] for seed in seeds], ""), path)


def strip(columns: Columns, which: Sequence[int] | NDArray[np.intp], title: str) -> Image.Image:
    """One edit a line: four pictures and the texts."""
    small = ImageFont.load_default(13)
    head = 30 if title else 0
    page = Image.new("RGB", (4 * _LINE + _TEXT, len(which) * _LINE + head), "white")
    draw = ImageDraw.Draw(page)
    draw.text((4, 6), title, fill="black", font=ImageFont.load_default(16))
    for row, i in enumerate(which):
        top = head + row * _LINE
        one = case(int(columns["seed"][i]), columns["after"].shape[1])
        for column, tile in enumerate(_tiles(one.image, columns, int(i))):
            page.paste(tile, (column * _LINE, top))
        failed = [word for name, word in _JUDGED.items() if not columns[name][i]]
        lines = [*_texts(one), "", f"wrong: {', '.join(failed)}" if failed else "right"]
        if "iou" in columns:
            lines.append(f"mask IoU {columns['iou'][i]:.2f}")
        draw.multiline_text(
            (4 * _LINE + 6, top), "\n".join(lines), fill="black", font=small, spacing=2
        )
    return page


def side_by_side(settings: Mapping[str, Columns], which: Sequence[int], path: Path) -> None:
    """The same edits by several editors: the input, then one column an editor."""
    font = ImageFont.load_default(13)
    width = (1 + len(settings)) * _LINE + _TEXT
    page = Image.new("RGB", (width, len(which) * _LINE + 24), "white")
    draw = ImageDraw.Draw(page)
    for column, title in enumerate(["input", *settings]):
        draw.text((column * _LINE, 6), title[:20], fill="black", font=font)
    first = next(iter(settings.values()))
    for row, i in enumerate(which):
        top = 24 + row * _LINE
        one = case(int(first["seed"][i]), first["after"].shape[1])
        pictures = [one.image, *(columns["after"][i] for columns in settings.values())]
        for column, picture in enumerate(pictures):
            page.paste(_tile(Image.fromarray(picture)), (column * _LINE, top))
        draw.multiline_text((len(pictures) * _LINE + 6, top), "\n".join(_texts(one)), "black", font)
    save(page, path)


def save(page: Image.Image, path: Path) -> None:
    """Write a PNG, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.png")
    page.quantize(256, dither=Image.Dither.NONE).save(part, optimize=True)
    part.replace(path)


def _texts(one: Case) -> list[str]:
    """Source text and prompt in short lines."""
    return [*textwrap.wrap(one.edit.source, 44), "->", *textwrap.wrap(one.edit.target, 44)]


def _tiles(image: NDArray[np.uint8], columns: Columns, i: int) -> list[Image.Image]:
    photo = Image.fromarray(image)
    size = photo.height, photo.width
    tiles = [photo]
    if "heatmap" in columns:
        heat = columns["heatmap"][i].astype(np.float32)
        placement = Placement(size, size, size, 0, 0)
        tiles.append(compose.heatmap_overlay(photo, heat, placement, size[0] // len(heat)))
    tiles += [Image.fromarray(columns["mask"][i]), Image.fromarray(columns["after"][i])]
    return [_tile(tile) for tile in tiles]


def _tile(picture: Image.Image) -> Image.Image:
    return picture.convert("RGB").resize((_TILE, _TILE), Image.Resampling.NEAREST)
