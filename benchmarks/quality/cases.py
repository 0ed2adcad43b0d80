"""The edits on the demo's scenes: a picture, two texts, and the ground truth.

A case is a function of its seed. Seeds from `scenes.EVALUATION` up are for measuring. Those from
`DEV` up are for choosing settings; they are never measured, and the model was not trained on them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.quality.measures import Bools, Pixels
from demo import scenes

DEV = 970_000
"""The first seed of the scenes for choosing settings."""


@dataclass(frozen=True, eq=False)
class Case:
    """One edit with its ground truth.

    Attributes:
        seed: of the scene, and of the edit's noise.
        scene, ideal: before, and as a perfect edit leaves it.
        edit: what changes.
        region: bool [H, W], the pixels of the old object and of the new one.
        outside: bool [H, W], the pixels that a perfect edit does not change.
    """

    seed: int
    scene: scenes.Scene
    ideal: scenes.Scene
    edit: scenes.Edit
    region: Bools
    outside: Bools

    @property
    def image(self) -> Pixels:
        return self.scene.image


def case(seed: int, size: int = 128) -> Case:
    """The case of a seed, `size` pixels wide. Even and odd seeds take turns in the kind of edit."""
    scene = scenes.scene(seed, size)
    edits = scene.edits()
    edit = edits[seed % len(edits)]
    ideal = scene.edited(edit)
    region = edit.mask | ideal.objects[edit.index].mask
    return Case(seed, scene, ideal, edit, region, ~scene.touched(edit))


def boxes(case: Case) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """The objects' boxes, [N, 4] as shares of the side, from left to right."""
    return np.array([thing.box for thing in case.scene.objects])
