"""The reference's masks: thresholding and cleaning as plain loops over cells.

`diffedit.algorithm.mask.shape` is tested against it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffedit.request import EditRequest

Cell = tuple[int, int]


def found_mask(heat: Tensor, region: Tensor, request: EditRequest) -> Tensor:
    """The edit mask of a heatmap, bool [h, w]. `heat` is float32 [h, w], `region` bool [h, w]."""
    height, width = heat.shape
    photo = {(y, x) for y in range(height) for x in range(width) if region[y, x]}
    cleans = request.mask_cleaning != "none"
    values = {(y, x): float(heat[y, x]) for y, x in photo}
    values = _blurred(values) if cleans else values
    cells = {cell for cell in photo if values[cell] > request.mask_threshold}
    if cleans:
        cells = _without_specks(_without_holes(cells, photo))
    reach = request.mask_dilation + (1 if request.mask_cleaning == "edges" else 0)
    mask = torch.zeros_like(region)
    for y, x in photo:
        near = ((y + a, x + b) for a in range(-reach, reach + 1) for b in range(-reach, reach + 1))
        mask[y, x] = any(cell in cells for cell in near)
    return mask


def _blurred(values: dict[Cell, float], sigma: float = 0.7) -> dict[Cell, float]:
    """The Gaussian average over the cells of the photograph, up to 4 standard deviations away."""
    radius = math.ceil(4 * sigma)
    offsets = range(-radius, radius + 1)
    weights = {
        (a, b): math.exp(-(a * a + b * b) / (2 * sigma**2)) for a in offsets for b in offsets
    }
    found = {}
    for y, x in values:
        near = [(w, (y + a, x + b)) for (a, b), w in weights.items() if (y + a, x + b) in values]
        found[y, x] = sum(w * values[cell] for w, cell in near) / sum(w for w, _ in near)
    return found


def _without_holes(cells: set[Cell], photo: set[Cell]) -> set[Cell]:
    """Add the regions of other cells that do not touch the photograph's border."""
    straight = ((0, 1), (1, 0), (0, -1), (-1, 0))
    for region in _regions(photo - cells, straight):
        if all((y + a, x + b) in photo for y, x in region for a, b in straight):
            cells = cells | region
    return cells


def _without_specks(cells: set[Cell]) -> set[Cell]:
    """Drop the regions below a tenth of the mask, unless all are."""
    around = tuple((a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if (a, b) != (0, 0))
    regions = _regions(cells, around)
    large = [region for region in regions if len(region) >= 0.1 * len(cells)]
    return set().union(*(large or regions))


def _regions(cells: set[Cell], steps: tuple[Cell, ...]) -> list[set[Cell]]:
    """The connected regions, by a flood fill."""
    left, found = set(cells), []
    while left:
        region: set[Cell] = set()
        todo = [left.pop()]
        while todo:
            y, x = todo.pop()
            region.add((y, x))
            near = {(y + a, x + b) for a, b in steps} & left
            left -= near
            todo += near
        found.append(region)
    return found
