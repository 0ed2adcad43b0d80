"""Cleaning a mask: compared with the same rules written as plain loops over cells."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from diffedit.algorithm import mask_cleaning

STRAIGHT = ((0, 1), (1, 0), (0, -1), (-1, 0))
ALL_EIGHT = (*STRAIGHT, (1, 1), (1, -1), (-1, 1), (-1, -1))

Cell = tuple[int, int]

grids = st.builds(
    lambda seed, h, w, share: torch.rand(h, w, generator=torch.manual_seed(seed)) < share,
    st.integers(0, 10_000),
    st.integers(1, 12),
    st.integers(1, 12),
    st.floats(0, 1),
)


def regions(mask: Tensor, steps: tuple[Cell, ...]) -> list[set[Cell]]:
    """The connected regions of true cells, by a flood fill."""
    left = {(int(y), int(x)) for y, x in mask.nonzero()}
    found = []
    while left:
        region, todo = set(), [left.pop()]
        while todo:
            y, x = todo.pop()
            region.add((y, x))
            near = {(y + a, x + b) for a, b in steps} & left
            left -= near
            todo += near
        found.append(region)
    return found


def drawn(rows: str) -> Tensor:
    return torch.tensor([[c == "#" for c in row] for row in rows.split()])


def cells_of(mask: Tensor) -> set[Cell]:
    return {(int(y), int(x)) for y, x in mask.nonzero()}


@given(mask=grids)
def test_holes_are_the_kept_regions_that_do_not_reach_the_border(mask: Tensor) -> None:
    height, width = mask.shape
    holes: set[Cell] = set()
    for kept in regions(~mask, STRAIGHT):
        if all(0 < y < height - 1 and 0 < x < width - 1 for y, x in kept):
            holes |= kept
    filled = mask_cleaning.without_holes(mask, torch.ones_like(mask))
    assert cells_of(filled) == cells_of(mask) | holes


@given(mask=grids, share=st.sampled_from((0.05, 0.1, 0.3)))
def test_specks_are_the_regions_below_a_share_of_the_mask(mask: Tensor, share: float) -> None:
    found, least = regions(mask, ALL_EIGHT), share * int(mask.sum())
    large = [region for region in found if len(region) >= least]
    expected = set().union(*(large or found))
    assert cells_of(mask_cleaning.without_specks(mask, share)) == expected


def test_a_spiral_is_one_region() -> None:
    spiral = drawn("#######.  ......#.  .####.#.  .#..#.#.  .#.##.#.  .#....#.  .######.")
    assert mask_cleaning.without_specks(spiral, 0.9).equal(spiral)
    split = spiral.clone()
    split[0, 6] = split[1, 6] = False  # 6 cells at the top, the other 20 below
    assert cells_of(split) - cells_of(mask_cleaning.without_specks(split, 0.5)) == {
        (0, x) for x in range(6)
    }


def test_a_hole_beside_the_padding_is_open() -> None:
    ring = drawn("####.  #..#.  ####.")
    region = torch.ones_like(ring)
    assert mask_cleaning.without_holes(ring, region).sum() == 12
    region[:, 2:] = False  # the photograph ends inside the ring
    assert mask_cleaning.without_holes(ring, region).sum() == 5


def test_the_blur_is_a_gaussian_of_the_given_width() -> None:
    heat = torch.zeros(15, 15)
    heat[7, 7] = 1
    soft = mask_cleaning.blurred(heat, heat >= 0, 0.7)
    weights = {d: math.exp(-0.5 * (d / 0.7) ** 2) for d in range(-3, 4)}
    total = sum(weights.values())
    for (y, x), scale in {(7, 7): 1, (7, 8): 1, (6, 8): 1, (9, 7): 1}.items():
        expected = scale * weights[y - 7] * weights[x - 7] / total**2
        assert float(soft[y, x]) == pytest.approx(expected, rel=1e-5)


@given(seed=st.integers(0, 1000), sigma=st.sampled_from((0.0, 0.01, 0.5, 0.7, 2.0)))
def test_the_blur_ignores_cells_outside_the_photograph(seed: int, sigma: float) -> None:
    heat = torch.rand(9, 9, generator=torch.manual_seed(seed))
    region = torch.zeros(9, 9, dtype=torch.bool)
    region[2:7] = True
    loud = torch.where(region, heat, float("nan"))
    soft = mask_cleaning.blurred(loud, region, sigma)
    torch.testing.assert_close(soft[2:7], mask_cleaning.blurred(heat[2:7], region[2:7], sigma))
    assert not soft[~region].any()
    torch.testing.assert_close(
        mask_cleaning.blurred(torch.full((9, 9), 0.25), region, sigma)[2:7],
        torch.full((5, 9), 0.25),
    )


@pytest.mark.gpu
def test_maps_on_a_gpu_are_cleaned_to_the_same_mask() -> None:
    heat = torch.rand(64, 64, generator=torch.manual_seed(0))
    region = heat >= 0
    here = mask_cleaning.blurred(heat, region) > 0.5
    there = mask_cleaning.blurred(heat.cuda(), region.cuda()) > 0.5
    assert there.equal(here)
    assert mask_cleaning.without_specks(here.cuda()).equal(mask_cleaning.without_specks(here))
