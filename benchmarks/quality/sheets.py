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
from benchmarks.quality.settings import instant_name
from diffedit.imaging import compose
from diffedit.imaging.geometry import Placement
from engine.errors import DiffEditError

Columns = Mapping[str, NDArray[Any]]
Line = tuple[list[Image.Image], list[str]]
"""The pictures of one edit, and the text beside them."""

_TILE, _GAP, _TEXT = 128, 4, 330
_LINE = _TILE + _GAP
_TITLE = 18
"""Characters of a title's line, which fit over one tile."""
_JUDGED = {"kind_right": "kind", "colour_right": "colour", "others_right": "another object"}


def ranked(columns: Columns) -> NDArray[np.intp]:
    """Cases from best to worst: by success, then by the judge's confidence and the mask's IoU."""
    sure = columns["success"] * columns["confidence"] - (1 - columns["success"])
    parts = sum(columns[name] for name in _JUDGED)
    return np.argsort(-(sure + parts / 10 + columns["iou"] / 10), kind="stable")


def best_and_worst(columns: Columns, path: Path, count: int = 8) -> None:
    """The `count` best edits on the left, the worst on the right."""
    order = ranked(columns)
    best = _strip(columns, order[:count], f"the {count} best of {len(order)}")
    worst = _strip(columns, order[::-1][:count], f"the {count} worst")
    page = Image.new("RGB", (best.width + 24 + worst.width, best.height), "white")
    page.paste(best, (0, 0))
    page.paste(worst, (best.width + 24, 0))
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
    save(_strip(columns, [known[seed] for seed in seeds]), path)


def side_by_side(
    settings: Mapping[str, Columns], which: Sequence[int], path: Path, *, perfect: bool = False
) -> None:
    """The same edits by several editors: the input, then one column an editor, and if `perfect` the
    perfect edit."""
    first = next(iter(settings.values()))
    lines: list[Line] = []
    for i in which:
        one = _case(first, i)
        results = [columns["after"][i] for columns in settings.values()]
        results += [one.ideal.image] if perfect else []
        lines.append(([Image.fromarray(tile) for tile in (one.image, *results)], _texts(one)))
    save(_page(lines, ["input", *settings, *(["perfect edit"] if perfect else [])]), path)


def refining_rows(settings: Mapping[str, Columns], path: Path, count: int = 12) -> None:
    """The first edits of the preset `instant` with the published factor and 0, 1 and 2 refining
    rows."""
    shown = {f"field, {rows} refining rows": settings[instant_name(1, rows)] for rows in range(3)}
    measured = len(shown["field, 0 refining rows"]["seed"])
    side_by_side(shown, range(min(count, measured)), path, perfect=True)


def _strip(
    columns: Columns, which: Sequence[int] | NDArray[np.intp], title: str = ""
) -> Image.Image:
    """One edit a line: input, heatmap, mask, result, and the texts with the judge's opinion."""
    lines: list[Line] = []
    for i in which:
        one = _case(columns, i)
        failed = [word for name, word in _JUDGED.items() if not columns[name][i]]
        texts = [*_texts(one), "", f"wrong: {', '.join(failed)}" if failed else "right"]
        if "iou" in columns:
            texts.append(f"mask IoU {columns['iou'][i]:.2f}")
        lines.append((_tiles(one.image, columns, int(i)), texts))
    return _page(lines, [title] if title else [])


def _page(lines: Sequence[Line], titles: Sequence[str]) -> Image.Image:
    """Tiles and texts, one line below the other; the titles stand over the first columns."""
    font, wrapped = ImageFont.load_default(13), [textwrap.wrap(one, _TITLE) for one in titles]
    head = 8 + 16 * max(map(len, wrapped)) if titles else 0
    left = max(len(tiles) for tiles, _ in lines) * _LINE
    page = Image.new("RGB", (left + _TEXT, len(lines) * _LINE + head), "white")
    draw = ImageDraw.Draw(page)
    for column, words in enumerate(wrapped):
        draw.multiline_text((column * _LINE, 4), "\n".join(words), "black", font, spacing=2)
    for row, (tiles, texts) in enumerate(lines):
        top = head + row * _LINE
        for column, tile in enumerate(tiles):
            small = tile.convert("RGB").resize((_TILE, _TILE), Image.Resampling.NEAREST)
            page.paste(small, (column * _LINE, top))
        draw.multiline_text((left + 6, top), "\n".join(texts), "black", font, spacing=2)
    return page


def save(page: Image.Image, path: Path) -> None:
    """Write a PNG, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.png")
    page.quantize(256, dither=Image.Dither.NONE).save(part, optimize=True)
    part.replace(path)


def _case(columns: Columns, i: int | np.intp) -> Case:
    return case(int(columns["seed"][i]), columns["after"].shape[1])


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
    shown = columns.get("blend", columns["mask"])
    return [*tiles, Image.fromarray(shown[i]), Image.fromarray(columns["after"][i])]
