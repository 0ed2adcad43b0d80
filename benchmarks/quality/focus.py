"""Edits of large photographs: how sharp they are, with and without `focus`.

A photograph here is a scene of the demo with one object and its borders continued, scaled up to
4000 x 3000 pixels. Its details are then about as fine as a window of the network's size can show,
and the perfect edit is known. The edit gets the true mask with a margin, as a person would paint
it, so that nothing depends on the search.
"""

from __future__ import annotations

import itertools
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
from benchmarks.quality.measures import Bools, Figures, Pixels, dilate, gradient
from benchmarks.quality.sheets import save
from benchmarks.quality.summary import Columns, Estimate, estimate, ratio
from benchmarks.report import remaining
from demo import scenes
from demo.judge import Judge
from diffedit import DiffEditPipeline, EditRequest, EditResult
from diffedit.imaging.window import Box, window_around

SIZE = (3000, 4000)
"""(height, width) of a photograph in pixels."""
SHARE = 0.5
"""The part of its height that the scene has."""
DETAIL = 1.25
"""Pixels of a side that the scene is drawn with, in sides of the network's canvas. An object's box
is about 0.4 of the side, so a window of twice the box has as many pixels as the canvas."""
MARGIN = 4
"""Pixels of the scene by which the mask is larger than the object: its edge fades inwards, and
would keep an outline of the object otherwise."""
CONTEXT = 2.0
"""Sides of the window relative to the mask's box: an object is then as large as in the scenes."""
FIGURES = {
    "sharpness": ".2f",
    "contrast": ".2f",
    "success": ".2f",
    "rows": ".1f",
    "seconds": ".2f",
}
FOCUS: dict[str, dict[str, Any]] = {
    "balanced, without focus": {"focus": False},
    "balanced, with focus": {"focus": True, "context_factor": CONTEXT},
}
"""Row of the table -> its options."""
SQUARE = (64, 64)
"""The shape of the part around a mask whose sharpness is compared."""
SHOWN, TILE = 6, 320
"""Edits on the sheet, and pixels of a side there."""


@dataclass(frozen=True, eq=False)
class Photograph:
    """A scene on a large photograph.

    Attributes:
        case: the scene and its perfect edit.
        image, ideal: uint8 [H, W, 3], before and after a perfect edit.
        mask: L, 255 where the perfect edit changes the object, and in its margin.
        square: where the scene is, in pixels.
    """

    case: Case
    image: Pixels
    ideal: Pixels
    mask: Image.Image
    square: Box


def seeds(count: int) -> list[int]:
    """The first reserved seeds whose scenes have one object, so that their texts also describe a
    window around it."""
    every = itertools.count(scenes.EVALUATION)
    alone = (seed for seed in every if len(scenes.random_recipe(seed).objects) == 1)
    return list(itertools.islice(alone, count))


def photograph(seed: int, native: int, size: tuple[int, int] = SIZE) -> Photograph:
    """The photograph of a seed; `native` is the side that the network was trained at."""
    one = case(seed, round(DETAIL * native))
    height, width = size
    side = round(SHARE * height)
    top, left = (height - side) // 2, (width - side) // 2

    def large(scene: Pixels) -> Pixels:
        scaled = Image.fromarray(scene).resize((side, side), Image.Resampling.BICUBIC)
        below, right = height - side - top, width - side - left
        return np.pad(np.asarray(scaled), ((top, below), (left, right), (0, 0)), mode="edge")

    square = (left, top, left + side, top + side)
    grown = dilate(one.region, MARGIN).astype(np.uint8) * 255
    region = Image.fromarray(grown).resize((side, side))
    mask = Image.new("L", (width, height))
    mask.paste(region.point(lambda value: 255 * (value > 127)), square)
    return Photograph(one, large(one.image), large(one.ideal.image), mask, square)


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
            for name, own in FOCUS.items():
                pipe.cache_clear()
                results[name] = edit(pipe, photo, **options, **own)
                found[name].append(figures(photo, results[name], judge, native))
            if number <= SHOWN:
                lines.append(_tiles(photo, [*results.values()]))
            show(number)
    save(_page(lines), sheet)
    return {
        name: {figure: np.array([one[figure] for one in rows]) for figure in rows[0]}
        for name, rows in found.items()
    }


def summarise(columns: Columns) -> dict[str, Estimate]:
    """The figures of a row of the table.

    `sharpness` is the gradient energy inside the mask divided by that of the perfect edit there,
    and `contrast` the same energy divided by that of the surroundings: ratios of means.
    """
    return {
        "sharpness": ratio(columns, "energy", "energy_ideal"),
        "contrast": ratio(columns, "energy", "energy_around"),
        **{name: estimate(columns[name]) for name in ("success", "rows", "seconds")},
    }


def edit(pipe: DiffEditPipeline, photo: Photograph, **options: Any) -> EditResult:
    """The edit of a photograph under the texts of its scene."""
    texts = photo.case.edit
    return pipe.submit(
        EditRequest(
            photo.image,
            texts.target,
            texts.source,
            mask_image=photo.mask,
            seed=photo.case.seed,
            **options,
        )
    ).result()


def figures(photo: Photograph, result: EditResult, judge: Judge, native: int) -> Figures:
    """The figures of one edit: those of `energies`, `success` of the scene at the network's size,
    `rows` of the denoiser and `seconds`."""
    scene = result.image.crop(photo.square).resize((native, native), Image.Resampling.BOX)
    after = Outcome(np.asarray(scene))
    return {
        **energies(np.asarray(result.image), photo.ideal, np.asarray(result.blend_mask) >= 128),
        "success": judged(case(photo.case.seed, native), after, judge)["success"],
        "rows": float(result.stats.rows[DENOISER]),
        "seconds": result.stats.seconds["total"],
    }


def energies(after: Pixels, ideal: Pixels, shown: Bools) -> Figures:
    """Mean squared gradients around a mask, in 8-bit values a pixel.

    Args:
        after, ideal: uint8 [H, W, 3], the result and the perfect edit.
        shown: bool [H, W], the pixels that take most of the edit; not empty.

    Returns: `energy` inside the mask, `energy_ideal` there in the perfect edit, and `energy_around`
        in the rest of a square that is twice as large as the mask.
    """
    left, top, right, bottom = _around(shown, 2.0)
    where = np.s_[top:bottom, left:right]
    inside = shown[where]
    energy, perfect = (np.square(gradient(picture[where])) for picture in (after, ideal))
    return {
        "energy": float(energy[inside].mean()),
        "energy_ideal": float(perfect[inside].mean()),
        "energy_around": float(energy[~inside].mean()),
    }


def _around(mask: Bools, context: float) -> Box:
    """A square around a mask, in a picture of its size."""
    box = Image.fromarray(mask).getbbox()
    assert box is not None
    return window_around(box, (mask.shape[1], mask.shape[0]), SQUARE, context)


def _tiles(photo: Photograph, results: Sequence[EditResult]) -> list[Image.Image]:
    """The surroundings of the mask: photograph, results, perfect edit."""
    part = _around(np.asarray(photo.mask) > 0, 1.6)
    before, perfect = Image.fromarray(photo.image), Image.fromarray(photo.ideal)
    pictures = (before, *(result.image for result in results), perfect)
    return [one.crop(part).resize((TILE, TILE)) for one in pictures]


def _page(lines: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """One line an edit."""
    page = Image.new("RGB", (max(map(len, lines)) * TILE, len(lines) * TILE))
    for row, tiles in enumerate(lines):
        for column, tile in enumerate(tiles):
            page.paste(tile.convert("RGB"), (column * TILE, row * TILE))
    return page
