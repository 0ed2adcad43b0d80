"""The edits of the demo's own domain: a picture, two texts, and the truth about them.

A case is a function of its seed. Seeds from `scenes.EVALUATION` up measure; `DEV` ones are for
choosing settings, are no scene the model was trained on, and never measure anything.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.quality.measures import Bools, Pixels
from demo import scenes

DEV = 970_000
"""The first seed of the scenes that settings are chosen on."""


@dataclass(frozen=True, eq=False)
class Case:
    """One edit with its truth.

    Attributes:
        seed: of the scene, and of the edit's noise.
        scene, ideal: before, and as the edit should leave it.
        edit: what changes.
        region: bool [H, W], the pixels of the old object and of the new one.
        outside: bool [H, W], the pixels that an ideal edit leaves as they are.
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
    """One edit of the scene of this seed, `size` pixels wide; the two sorts of change by turns."""
    scene = scenes.scene(seed, size)
    edits = scene.edits()
    edit = edits[seed % len(edits)]
    ideal = scene.edited(edit)
    region = edit.mask | ideal.objects[edit.index].mask
    return Case(seed, scene, ideal, edit, region, ~scene.touched(edit))


def boxes(case: Case) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Where the objects stand, [N, 4] shares of the side, from left to right."""
    return np.array([thing.box for thing in case.scene.objects])
