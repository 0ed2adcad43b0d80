"""Edits to be looked at: input, heatmap over it, mask, result, and the texts in words."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from benchmarks.quality.cases import case
from diffedit.imaging import compose
from diffedit.imaging.geometry import Placement
from engine.errors import DiffEditError

Columns = Mapping[str, NDArray[Any]]

_TILE, _GAP, _TEXT = 128, 4, 330


def ranked(columns: Columns) -> NDArray[np.intp]:
    """Cases from the best edit to the worst: success, then what the judge is sure of, times the
    mask's agreement."""
    sure = columns["success"] * columns["confidence"] - (1 - columns["success"])
    parts = columns["kind_right"] + columns["colour_right"] + columns["others_right"]
    merit = sure + parts / 10 + columns["iou"] / 10
    return np.argsort(-merit, kind="stable")


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
    """The edits of these seeds. Raises DiffEditError for one that was not among them."""
    known = {int(seed): i for i, seed in enumerate(columns["seed"])}
    missing = [seed for seed in seeds if seed not in known]
    if missing:
        raise DiffEditError(
            f"--show has seed {missing[0]}, but the edits measured are those of "
            f"{min(known)} to {max(known)}."
        )
    save(strip(columns, [known[seed] for seed in seeds], ""), path)


def strip(columns: Columns, which: Sequence[int] | NDArray[np.intp], title: str) -> Image.Image:
    """One edit a line: four pictures and what was asked for."""
    font, small = ImageFont.load_default(16), ImageFont.load_default(13)
    line = _TILE + _GAP
    head = 30 if title else 0
    page = Image.new("RGB", (4 * line + _TEXT, len(which) * line + head), "white")
    draw = ImageDraw.Draw(page)
    draw.text((4, 6), title, fill="black", font=font)
    for row, i in enumerate(which):
        top = head + row * line
        one = case(int(columns["seed"][i]), columns["after"].shape[1])
        for column, tile in enumerate(_tiles(one.image, columns, int(i))):
            page.paste(tile, (column * line, top))
        failed = [
            word
            for name, word in (
                ("kind_right", "kind"),
                ("colour_right", "colour"),
                ("others_right", "another object"),
            )
            if not columns[name][i]
        ]
        told = [*textwrap.wrap(one.edit.source, 44), "->", *textwrap.wrap(one.edit.target, 44)]
        told.append("")
        told.append(f"wrong: {', '.join(failed)}" if failed else "right")
        if "iou" in columns:
            told.append(f"mask IoU {columns['iou'][i]:.2f}")
        draw.multiline_text(
            (4 * line + 6, top), "\n".join(told), fill="black", font=small, spacing=2
        )
    return page


def _tiles(image: NDArray[np.uint8], columns: Columns, i: int) -> list[Image.Image]:
    photo = Image.fromarray(image)
    size = photo.height, photo.width
    tiles = [photo]
    if "heatmap" in columns:
        heat = columns["heatmap"][i].astype(np.float32)
        placement = Placement(size, size, size, 0, 0)
        tiles.append(compose.heatmap_overlay(photo, heat, placement, size[0] // len(heat)))
    tiles += [Image.fromarray(columns["mask"][i]), Image.fromarray(columns["after"][i])]
    how = Image.Resampling.NEAREST
    return [tile.convert("RGB").resize((_TILE, _TILE), how) for tile in tiles]


def side_by_side(settings: Mapping[str, Columns], which: Sequence[int], path: Path) -> None:
    """The same edits by several editors, one column of pictures an editor after the input."""
    font = ImageFont.load_default(13)
    line = _TILE + _GAP
    page = Image.new("RGB", ((1 + len(settings)) * line + _TEXT, len(which) * line + 24), "white")
    draw = ImageDraw.Draw(page)
    for column, title in enumerate(["input", *settings]):
        draw.text((column * line, 6), title[:20], fill="black", font=font)
    first = next(iter(settings.values()))
    for row, i in enumerate(which):
        top = 24 + row * line
        one = case(int(first["seed"][i]), first["after"].shape[1])
        pictures = [one.image, *(columns["after"][i] for columns in settings.values())]
        for column, picture in enumerate(pictures):
            tile = Image.fromarray(picture).resize((_TILE, _TILE), Image.Resampling.NEAREST)
            page.paste(tile, (column * line, top))
        told = [*textwrap.wrap(one.edit.source, 44), "->", *textwrap.wrap(one.edit.target, 44)]
        draw.multiline_text((len(pictures) * line + 6, top), "\n".join(told), "black", font)
    save(page, path)


def save(page: Image.Image, path: Path) -> None:
    """Write a PNG whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.png")
    page.quantize(256, dither=Image.Dither.NONE).save(part, optimize=True)
    part.replace(path)
