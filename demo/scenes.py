"""Still lifes with captions and true masks: what the demo's model learns and is measured on.

    python -m demo.scenes sheet OUT.png [--seeds 0:48] [--size 64]
    python -m demo.scenes edits OUT.png [--seeds 0:16] [--size 64]

One to three objects of different kinds and colours in one of eight places. The caption names them
from left to right: "a red ball and a green cube on a wooden table". A scene is a function of its
seed; its size only says how finely it is drawn. Seeds from EVALUATION up are kept for measuring:
nothing is trained or tuned on them. It knows nothing of models; `demo.drawing` draws.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np

from demo.drawing import COLOURS as _PAINTS
from demo.drawing import Bools, Light, Pixels, Recipe, Thing, render, touched
from demo.drawing_kinds import KINDS as _SHAPES

EVALUATION = 1_000_000
"""The first seed of the evaluation scenes."""

KINDS = tuple(_SHAPES)
COLOURS = tuple(_PAINTS)
BACKGROUNDS = {
    "grey": "on a grey background",
    "pink": "on a pink background",
    "studio": "in a studio",
    "stripes": "on a striped cloth",
    "checks": "on a checked cloth",
    "wood": "on a wooden table",
    "grass": "on the grass",
    "beach": "on the beach",
}
"""Each background's name and what a caption says of it."""

WORDS = tuple(sorted({"a", "an", "and", *KINDS, *COLOURS, *" ".join(BACKGROUNDS.values()).split()}))
"""Every word a caption can contain."""

_MARGIN = 0.02
_SIZES = {1: (0.36, 0.58), 2: (0.31, 0.43), 3: (0.27, 0.34)}


@dataclass(frozen=True, eq=False)
class Object:
    """One object of a scene; lengths are shares of the picture's side, y runs down.

    `box` (left, top, right, bottom) is the square of side `scale` it stands in, which would hold
    any other kind in its place too; `mask` bool [H, W] are the pixels where it is seen, not where
    another stands before it.
    """

    kind: str
    colour: str
    box: tuple[float, float, float, float]
    centre: tuple[float, float]
    scale: float
    mask: Bools


@dataclass(frozen=True, eq=False)
class Edit:
    """A change to one object: the texts before and after, where it is, what it shall become."""

    change: Literal["recolour", "replace"]
    index: int  # in Scene.objects
    source: str
    target: str
    kind: str
    colour: str
    mask: Bools


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture, uint8 [H, W, 3], its caption, and what is where; objects from left to right."""

    seed: int
    recipe: Recipe
    image: Pixels
    objects: tuple[Object, ...]

    @property
    def background(self) -> str:
        return self.recipe.place

    @cached_property
    def caption(self) -> str:
        return describe([(o.kind, o.colour) for o in self.objects], self.background)

    def edits(self) -> tuple[Edit, ...]:
        """A recolouring and a replacement of each object, to kinds and colours not in the scene."""
        draw = np.random.Generator(np.random.PCG64([self.seed, 1]))
        kinds = _others(draw, KINDS, [o.kind for o in self.objects])
        colours = _others(draw, COLOURS, [o.colour for o in self.objects])
        found = []
        for i, thing in enumerate(self.recipe.things):
            found.append(self._edit("recolour", i, thing.kind, colours[i]))
            found.append(self._edit("replace", i, kinds[i], thing.colour))
        return tuple(found)

    def _edit(self, change: Literal["recolour", "replace"], i: int, kind: str, colour: str) -> Edit:
        things = [(o.kind, o.colour) for o in self.objects]
        things[i] = kind, colour
        target = describe(things, self.background)
        return Edit(change, i, self.caption, target, kind, colour, self.objects[i].mask)

    def edited(self, edit: Edit) -> Scene:
        """The scene as the edit should leave it.

        Outside `touched(edit)` every pixel equals this scene's, and so does every other object's
        mask; inside it stands the new object with its own shadow.
        """
        things = list(self.recipe.things)
        things[edit.index] = replace(things[edit.index], kind=edit.kind, colour=edit.colour)
        return _drawn(self.seed, replace(self.recipe, things=tuple(things)), len(self.image))

    def touched(self, edit: Edit) -> Bools:
        """Where the ideal edit may differ, [H, W]: every pixel that the old or new object colours.

        Their shadows belong to it for a replacement; a recolouring leaves the shadow as it is.
        """
        old = self.recipe.things[edit.index]
        light, size, shadow = self.recipe.light, len(self.image), edit.change == "replace"
        new = replace(old, kind=edit.kind, colour=edit.colour)
        before = touched(old, light, size, shadow=shadow)
        return before | touched(new, light, size, shadow=shadow)


def scene(seed: int, size: int = 64) -> Scene:
    """The scene of this seed (0 or more), `size` x `size` pixels (16 or more)."""
    return _drawn(seed, recipe(seed), size)


def batch(seeds: Sequence[int] | range, size: int = 64) -> tuple[Pixels, list[str]]:
    """Many scenes without their masks: pictures, uint8 [N, size, size, 3], and captions."""
    images = np.empty((len(seeds), size, size, 3), np.uint8)
    captions = []
    for n, seed in enumerate(seeds):
        plan = recipe(seed)
        images[n], _ = render(plan, size)
        captions.append(describe([(t.kind, t.colour) for t in plan.things], plan.place))
    return images, captions


def training_seeds(count: int = EVALUATION, start: int = 0) -> range:
    """`count` seeds from `start` on, none of them reserved; ValueError if there are not so many."""
    if start < 0 or count < 0 or start + count > EVALUATION:
        raise ValueError(
            f"training seeds are 0 to {EVALUATION - 1}, asked for {start} to {start + count - 1}: "
            "seeds above are kept for evaluation"
        )
    return range(start, start + count)


def evaluation_seeds(count: int) -> range:
    """The first `count` reserved seeds."""
    return range(EVALUATION, EVALUATION + count)


def describe(things: Iterable[tuple[str, str]], background: str) -> str:
    """The caption of (kind, colour) pairs, as listed, before this background."""
    named = [f"{'an' if c[0] in 'aeiou' else 'a'} {c} {k}" for k, c in things]
    return f"{' and '.join(named)} {BACKGROUNDS[background]}"


def parse(caption: str) -> tuple[tuple[tuple[str, str], ...], str]:
    """`describe` backwards: (kind, colour) pairs and background; ValueError if it is no caption."""
    for background, phrase in BACKGROUNDS.items():
        if caption.endswith(f" {phrase}"):
            words = [part.split() for part in caption.removesuffix(f" {phrase}").split(" and ")]
            things = tuple((w[2], w[1]) for w in words if len(w) == 3)
            known = all(k in KINDS and c in COLOURS for k, c in things)
            if known and describe(things, background) == caption:
                return things, background
    raise ValueError(f"no caption of a scene: {caption!r}")


def recipe(seed: int) -> Recipe:
    """What stands where in the scene of this seed.

    Only the generator's `random()` is used, in one order, so that a seed keeps its scene.
    """
    draw = np.random.Generator(np.random.PCG64(seed))
    count = 1 + int(draw.random() * 3)
    place = tuple(BACKGROUNDS)[int(draw.random() * len(BACKGROUNDS))]
    numbers = tuple(draw.random(8).tolist())
    light = _light(draw)
    kinds, colours = _others(draw, KINDS, ()), _others(draw, COLOURS, ())
    spots = _spots(draw, count)
    things = tuple(
        Thing(kinds[i], colours[i], *spots[i], turn)
        for i, turn in enumerate((2 * draw.random(count) - 1).tolist())
    )
    return Recipe(place, numbers, light, things)


def _drawn(seed: int, plan: Recipe, size: int) -> Scene:
    image, owner = render(plan, size)
    objects = tuple(_object(t, owner == i) for i, t in enumerate(plan.things))
    return Scene(seed, plan, image, objects)


def _object(thing: Thing, mask: Bools) -> Object:
    x, base, s = thing.x, thing.base, thing.scale
    box = (x - s / 2, base - s, x + s / 2, base)
    return Object(thing.kind, thing.colour, box, (x, base - s / 2), s, mask)


def _others(draw: np.random.Generator, names: Sequence[str], taken: Iterable[str]) -> list[str]:
    """All names but those taken, shuffled."""
    return [names[i] for i in np.argsort(draw.random(len(names))) if names[i] not in taken]


def _light(draw: np.random.Generator) -> Light:
    """From above and the viewer's side, more or less from the left or right, warm or cool."""
    across, height, strength, warmth = draw.random(4).tolist()
    right, up, near = 1.3 * across - 0.65, 0.55 + 0.25 * height, 0.62
    norm = math.sqrt(right * right + up * up + near * near)
    power, warm = 0.93 + 0.10 * strength, 0.06 * warmth - 0.03
    return Light(
        right / norm, up / norm, near / norm, (power * (1 + warm), power, power * (1 - warm))
    )


def _spots(draw: np.random.Generator, count: int) -> list[tuple[float, float, float]]:
    """(x, base, scale) of each object from left to right.

    Neighbours' squares overlap by at most a tenth of the smaller one's side, so no object is hidden
    by more than a little, whatever kind the other becomes.
    """
    low, high = _SIZES[count]
    scales = (low + (high - low) * draw.random(count)).tolist()
    depths, gaps = draw.random(count).tolist(), draw.random(count + 1).tolist()
    overlap = [0.10 * min(a, b) for a, b in pairwise(scales)] + [0.0]
    free = 1 - 2 * _MARGIN - sum(scales) + sum(overlap)
    left, spots = _MARGIN, []
    for i, s in enumerate(scales):
        left += free * gaps[i] / sum(gaps)
        top = max(0.58, s + _MARGIN + 0.02)
        spots.append((left + s / 2, top + (0.95 - top) * depths[i], s))
        left += s - overlap[i]
    return spots


def main() -> None:
    """The command line."""
    from demo.scenes_sheets import edit_sheet, sheet

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=("sheet", "edits"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--seeds", type=_seeds, help="FIRST:END, END not among them")
    parser.add_argument("--size", type=int, default=64, help="side of a scene in pixels")
    args = parser.parse_args()
    if args.size < 16:
        parser.error(f"--size {args.size}: a scene has 16 pixels or more")
    draw, usual = (sheet, range(48)) if args.what == "sheet" else (edit_sheet, range(16))
    try:
        args.file.parent.mkdir(parents=True, exist_ok=True)
        draw(args.seeds or usual, args.size).save(args.file)
    except (OSError, ValueError) as error:  # a folder that cannot be written, a suffix unknown
        parser.error(f"cannot write {args.file}: {error}")
    print(f"drew {args.file}")


def _seeds(text: str) -> range:
    first, _, end = text.partition(":")
    if not (first.isdecimal() and end.isdecimal() and int(first) < int(end)):
        raise argparse.ArgumentTypeError(f"{text!r} is not FIRST:END as in 0:48")
    return range(int(first), int(end))


if __name__ == "__main__":
    main()
