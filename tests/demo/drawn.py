"""Drawn scenes, shared by the tests."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
from numpy.typing import NDArray

from demo.scenes import Edit, Scene, scene

SEEDS = range(150)


@cache
def some() -> list[Scene]:
    return [scene(seed) for seed in SEEDS]


def all_edits() -> list[tuple[Scene, Edit]]:
    return [(s, e) for s in some() for e in s.edits()]


def grown(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask and every pixel that touches it, corners included."""
    wide = np.pad(mask, 1)
    h, w = mask.shape
    shifts = itertools.product(range(3), range(3))
    found: NDArray[np.bool_] = np.logical_or.reduce(
        [wide[dy : dy + h, dx : dx + w] for dy, dx in shifts]
    )
    return found
