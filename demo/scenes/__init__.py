"""Synthetic still lifes with captions and true masks, to train and to evaluate the demo's model.

A scene has one to three objects of different kinds and colours on one of eight backgrounds. Its
caption lists them from left to right: "a red ball and a green cube on a wooden table". The seed
determines the scene; the size determines only the resolution. Seeds from EVALUATION up are reserved
for evaluation.

`recipe` draws a scene's content at random, `rendering` draws the pixels with `shapes`,
`backgrounds` and `colours`, and `captions` writes the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from demo.scenes.captions import BACKGROUNDS, COLOURS, KINDS, WORDS, describe, parse
from demo.scenes.recipe import ObjectRecipe, Recipe, random_recipe, shuffled
from demo.scenes.rendering import Mask, Pixels, render, touched

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "EVALUATION",
    "KINDS",
    "WORDS",
    "Edit",
    "Object",
    "Pixels",
    "Scene",
    "batch",
    "describe",
    "evaluation_seeds",
    "parse",
    "random_recipe",
    "render",
    "scene",
    "training_seeds",
]

EVALUATION = 1_000_000
"""The first seed of the evaluation scenes."""


@dataclass(frozen=True, eq=False)
class Object:
    """One object of a scene; lengths are fractions of the picture's side and y runs down.

    `box` (left, top, right, bottom) is the square of side `scale` that contains the object and can
    contain any other kind. `mask` bool [H, W] has the visible pixels.
    """

    kind: str
    colour: str
    box: tuple[float, float, float, float]
    centre: tuple[float, float]
    scale: float
    mask: Mask


@dataclass(frozen=True, eq=False)
class Edit:
    """A change of one object: the captions before and after, and its new kind and colour.

    `index` is the object's index in `Scene.objects`, and `mask` has its visible pixels.
    """

    change: Literal["recolour", "replace"]
    index: int
    source: str
    target: str
    kind: str
    colour: str
    mask: Mask


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture, uint8 [H, W, 3], and its objects from left to right."""

    seed: int
    recipe: Recipe
    image: Pixels
    objects: tuple[Object, ...]

    @property
    def background(self) -> str:
        return self.recipe.background

    @cached_property
    def caption(self) -> str:
        return _caption(self.recipe)

    def edits(self) -> tuple[Edit, ...]:
        """Return a recolouring and a replacement of each object.

        New kinds and colours are those that the scene does not contain.
        """
        rng = np.random.Generator(np.random.PCG64([self.seed, 1]))
        kinds = shuffled(rng, KINDS, [o.kind for o in self.objects])
        colours = shuffled(rng, COLOURS, [o.colour for o in self.objects])
        edits = []
        for i, item in enumerate(self.objects):
            edits.append(self._edit("recolour", i, item.kind, colours[i]))
            edits.append(self._edit("replace", i, kinds[i], item.colour))
        return tuple(edits)

    def _edit(self, change: Literal["recolour", "replace"], i: int, kind: str, colour: str) -> Edit:
        pairs = [(o.kind, o.colour) for o in self.objects]
        pairs[i] = kind, colour
        target = describe(pairs, self.background)
        return Edit(change, i, self.caption, target, kind, colour, self.objects[i].mask)

    def edited(self, edit: Edit) -> Scene:
        """Return the ideal result of an edit.

        Outside `touched(edit)` every pixel and every other object's mask is unchanged. Inside it is
        the new object with its own shadow.
        """
        items = list(self.recipe.objects)
        items[edit.index] = replace(items[edit.index], kind=edit.kind, colour=edit.colour)
        return _rendered(self.seed, replace(self.recipe, objects=tuple(items)), len(self.image))

    def touched(self, edit: Edit) -> Mask:
        """Return every pixel that the ideal edit may change, bool [H, W].

        These are the pixels of the old and the new object, and their shadows if the edit replaces
        the object. A recolouring does not change the shadow.
        """
        old = self.recipe.objects[edit.index]
        light, size, shadow = self.recipe.light, len(self.image), edit.change == "replace"
        new = replace(old, kind=edit.kind, colour=edit.colour)
        before = touched(old, light, size, shadow=shadow)
        return before | touched(new, light, size, shadow=shadow)


def scene(seed: int, size: int = 64) -> Scene:
    """Return the scene of a seed (0 or more) at `size` x `size` pixels (16 or more)."""
    return _rendered(seed, random_recipe(seed), size)


def batch(seeds: Sequence[int] | range, size: int = 64) -> tuple[Pixels, list[str]]:
    """Return the pictures of many scenes, uint8 [N, size, size, 3], and their captions."""
    images = np.empty((len(seeds), size, size, 3), np.uint8)
    recipes = [random_recipe(seed) for seed in seeds]
    for n, recipe in enumerate(recipes):
        images[n], _ = render(recipe, size)
    return images, [_caption(recipe) for recipe in recipes]


def training_seeds(count: int = EVALUATION, start: int = 0) -> range:
    """Return `count` seeds from `start` on; ValueError if any of them is reserved."""
    if start < 0 or count < 0 or start + count > EVALUATION:
        raise ValueError(
            f"training seeds are 0 to {EVALUATION - 1}, not {start} to {start + count - 1}: "
            "larger seeds are kept for evaluation"
        )
    return range(start, start + count)


def evaluation_seeds(count: int) -> range:
    """Return the first `count` reserved seeds."""
    return range(EVALUATION, EVALUATION + count)


def _caption(recipe: Recipe) -> str:
    return describe([(o.kind, o.colour) for o in recipe.objects], recipe.background)


def _rendered(seed: int, recipe: Recipe, size: int) -> Scene:
    image, index_map = render(recipe, size)
    objects = tuple(_object(o, index_map == i) for i, o in enumerate(recipe.objects))
    return Scene(seed, recipe, image, objects)


def _object(item: ObjectRecipe, mask: Mask) -> Object:
    x, base, s = item.x, item.base, item.scale
    box = (x - s / 2, base - s, x + s / 2, base)
    return Object(item.kind, item.colour, box, (x, base - s / 2), s, mask)
