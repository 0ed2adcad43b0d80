"""Recipes: random descriptions of scenes, without pixels.

Lengths are fractions of the picture's side and `y` runs down, so one recipe can be rendered at any
size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from demo.scenes.captions import BACKGROUNDS, COLOURS, KINDS

_MARGIN = 0.02
_SCALES = {1: (0.36, 0.58), 2: (0.31, 0.43), 3: (0.27, 0.34)}  # by the number of objects


@dataclass(frozen=True)
class ObjectRecipe:
    """One object to draw in a square of side `scale` whose bottom centre is (x, base).

    `turn` in -1..1 rotates or varies the shape, depending on its kind.
    """

    kind: str
    colour: str
    x: float
    base: float
    scale: float
    turn: float


@dataclass(frozen=True)
class Light:
    """The direction to the light (right, up, towards the viewer; length 1) and its colour."""

    right: float
    up: float
    near: float
    tint: tuple[float, float, float]


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a picture; `objects` are listed from left to right.

    `variation` are eight numbers in 0..1 for the painter of the background.
    """

    background: str
    variation: tuple[float, ...]
    light: Light
    objects: tuple[ObjectRecipe, ...]


def random_recipe(seed: int) -> Recipe:
    """Return the recipe of a seed.

    The order of the calls of `random()` must not change: a seed has to keep its scene.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    count = 1 + int(rng.random() * 3)
    background = tuple(BACKGROUNDS)[int(rng.random() * len(BACKGROUNDS))]
    variation = tuple(rng.random(8).tolist())
    light = _random_light(rng)
    kinds, colours = shuffled(rng, KINDS), shuffled(rng, COLOURS)
    positions = _random_positions(rng, count)
    objects = tuple(
        ObjectRecipe(kinds[i], colours[i], *positions[i], turn)
        for i, turn in enumerate((2 * rng.random(count) - 1).tolist())
    )
    return Recipe(background, variation, light, objects)


def shuffled(
    rng: np.random.Generator, names: Sequence[str], without: Iterable[str] = ()
) -> list[str]:
    """Return the names in random order, except those in `without`."""
    return [names[i] for i in np.argsort(rng.random(len(names))) if names[i] not in without]


def _random_light(rng: np.random.Generator) -> Light:
    """Return a light from above and the front, from the left or the right, warm or cool."""
    across, height, strength, warmth = rng.random(4).tolist()
    right, up, near = 1.3 * across - 0.65, 0.55 + 0.25 * height, 0.62
    norm = math.sqrt(right * right + up * up + near * near)
    power, warm = 0.93 + 0.10 * strength, 0.06 * warmth - 0.03
    return Light(
        right / norm, up / norm, near / norm, (power * (1 + warm), power, power * (1 - warm))
    )


def _random_positions(rng: np.random.Generator, count: int) -> list[tuple[float, float, float]]:
    """Return (x, base, scale) of each object from left to right.

    The squares of neighbours overlap by at most a tenth of the smaller side, so no object is
    hidden much, of any kind.
    """
    low, high = _SCALES[count]
    scales = (low + (high - low) * rng.random(count)).tolist()
    depths, gaps = rng.random(count).tolist(), rng.random(count + 1).tolist()
    overlaps = [0.10 * min(a, b) for a, b in pairwise(scales)] + [0.0]
    free = 1 - 2 * _MARGIN - sum(scales) + sum(overlaps)
    left, positions = _MARGIN, []
    for i, scale in enumerate(scales):
        left += free * gaps[i] / sum(gaps)
        top = max(0.58, scale + _MARGIN + 0.02)
        positions.append((left + scale / 2, top + (0.95 - top) * depths[i], scale))
        left += scale - overlaps[i]
    return positions
