"""Edits of large photographs: how sharp they are, with and without `focus`.

A photograph here is a scene of the demo with its borders continued, scaled up to 4000 x 3000
pixels. Its details are then about as fine as a window of the network's size can show, and the
perfect edit is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.networks import DENOISER
from benchmarks.quality.cases import Case, case
from benchmarks.quality.editors import Outcome
from benchmarks.quality.figures import judged
from benchmarks.quality.measures import Bools, Figures, Pixels, gradient, mask_figures
from benchmarks.quality.sheets import save
from benchmarks.report import remaining
from demo.judge import Judge
from diffedit import DiffEditPipeline, EditRequest, EditResult
from diffedit.imaging.window import Box, window_around

SIZE = (3000, 4000)
"""(height, width) of a photograph in pixels."""
SHARE = 0.75
"""The part of its height that the scene has."""
FIGURES = {
    "sharpness": ".2f",
    "contrast": ".2f",
    "success": ".2f",
    "iou": ".2f",
    "rows": ".1f",
    "seconds": ".2f",
}
FOCUS = {"balanced, without focus": False, "balanced, with focus": True}
"""Row of the table -> the option `focus`."""
SQUARE = (64, 64)
"""The shape of the part around a mask whose sharpness is compared."""
SHOWN, TILE = 6, 320
"""Edits on the sheet, and pixels of a side there."""


@dataclass(frozen=True, eq=False)
class Photograph:
    """A scene on a large photograph.

    Attributes:
        case: the scene at twice the network's size, and its perfect edit.
        image, ideal: uint8 [H, W, 3], before and after a perfect edit.
        square: where the scene is, in pixels.
    """

    case: Case
    image: Pixels
    ideal: Pixels
    square: Box


def photograph(seed: int, native: int, size: tuple[int, int] = SIZE) -> Photograph:
    """The photograph of a seed; `native` is the side that the network was trained at."""
    one = case(seed, 2 * native)
    height, width = size
    side = round(SHARE * height)
    top, left = (height - side) // 2, (width - side) // 2

    def large(scene: Pixels) -> Pixels:
        scaled = Image.fromarray(scene).resize((side, side), Image.Resampling.BICUBIC)
        below, right = height - side - top, width - side - left
        return np.pad(np.asarray(scaled), ((top, below), (left, right), (0, 0)), mode="edge")

    square = (left, top, left + side, top + side)
    return Photograph(one, large(one.image), large(one.ideal.image), square)


def measure(
    pipe: DiffEditPipeline,
    options: dict[str, Any],
    seeds: Sequence[int],
    sheet: Path,
    size: tuple[int, int] = SIZE,
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Every figure of every edit without and with focus: row -> figure -> values.

    Args:
        pipe: the pipeline.
        options: of `EditRequest`, but for the focus.
        seeds: of the scenes, one edit each.
        sheet: the PNG file for the first edits.
        size: (height, width) of the photographs.
    """
    judge, native = Judge.open(), pipe.checkpoint.family.native_size
    found: dict[str, list[Figures]] = {name: [] for name in FOCUS}
    lines: list[list[Image.Image]] = []
    with remaining("quality: photographs", len(seeds)) as show:
        for number, seed in enumerate(seeds, 1):
            photo = photograph(seed, native, size)
            results = {}
            for name, focus in FOCUS.items():
                pipe.cache_clear()
                results[name] = edit(pipe, photo, focus=focus, **options)
                found[name].append(figures(photo, results[name], judge, native))
            if number <= SHOWN:
                lines.append(_tiles(photo, [*results.values()]))
            show(number)
    save(_page(lines), sheet)
    return {
        name: {figure: np.array([one[figure] for one in rows]) for figure in FIGURES}
        for name, rows in found.items()
    }


def edit(pipe: DiffEditPipeline, photo: Photograph, **options: Any) -> EditResult:
    """The edit of a photograph under the texts of its scene."""
    texts = photo.case.edit
    return pipe.submit(
        EditRequest(photo.image, texts.target, texts.source, seed=photo.case.seed, **options)
    ).result()


def figures(photo: Photograph, result: EditResult, judge: Judge, native: int) -> Figures:
    """The figures of one edit.

    Returns: `sharpness`, the gradient energy inside the mask, divided by that of the perfect edit
        there; `contrast`, the same energy divided by that of the surroundings; `success` and
        `iou` of the scene at the network's size; `rows` and `seconds`. The first two are NaN
        without a mask.
    """
    shown = np.asarray(result.blend_mask) >= 128
    small = _at(native, photo, shown.astype(np.uint8) * 255) >= 128
    after = _at(native, photo, np.asarray(result.image))
    one = case(photo.case.seed, native)
    return {
        **sharpness(np.asarray(result.image), photo.ideal, shown),
        "success": judged(one, Outcome(after), judge)["success"],
        "iou": mask_figures(small, one.region, 1)["iou"],
        "rows": float(result.stats.rows[DENOISER]),
        "seconds": result.stats.seconds["total"],
    }


def sharpness(after: Pixels, ideal: Pixels, shown: Bools) -> Figures:
    """`sharpness` and `contrast` of an edit; see `figures`.

    Args:
        after, ideal: uint8 [H, W, 3], the result and the perfect edit.
        shown: bool [H, W], the pixels that take most of the edit.

    The surroundings are a square around the mask, twice as large as it.
    """
    if not shown.any():
        return {"sharpness": float("nan"), "contrast": float("nan")}
    left, top, right, bottom = window_around(_box(shown), shown.shape[::-1], SQUARE, 2.0)
    where = np.s_[top:bottom, left:right]
    inside = shown[where]
    energy, perfect = (np.square(gradient(picture[where])) for picture in (after, ideal))
    around = energy[~inside].mean() if not inside.all() else float("nan")
    return {
        "sharpness": float(energy[inside].mean() / max(perfect[inside].mean(), 1e-9)),
        "contrast": float(energy[inside].mean() / max(around, 1e-9)),
    }


def _at(native: int, photo: Photograph, picture: Pixels) -> Pixels:
    """The scene's part of a picture at the network's size."""
    part = Image.fromarray(picture).crop(photo.square)
    return np.asarray(part.resize((native, native), Image.Resampling.BOX))


def _box(mask: Bools) -> Box:
    found = Image.fromarray(mask).getbbox()
    assert found is not None
    return found


def _tiles(photo: Photograph, results: Sequence[EditResult]) -> list[Image.Image]:
    """The surroundings of the true region: photograph, results, perfect edit."""
    region = Image.fromarray(photo.case.region.astype(np.uint8) * 255)
    left, top, right, bottom = photo.square
    mask = Image.new("L", photo.image.shape[1::-1])
    mask.paste(region.resize((right - left, bottom - top)), (left, top))
    part = window_around(_box(np.asarray(mask) > 127), mask.size, SQUARE, 1.6)
    pictures = [Image.fromarray(photo.image), *(r.image for r in results)]
    return [
        one.crop(part).resize((TILE, TILE)) for one in (*pictures, Image.fromarray(photo.ideal))
    ]


def _page(lines: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """One line an edit."""
    page = Image.new("RGB", (max(map(len, lines)) * TILE, len(lines) * TILE))
    for row, tiles in enumerate(lines):
        for column, tile in enumerate(tiles):
            page.paste(tile.convert("RGB"), (column * TILE, row * TILE))
    return page
