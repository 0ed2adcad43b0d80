"""The training examples of the judge: boxes in renders that hold a whole object, or none.

Whole objects are those of a scene, and new ones after an edit. "Nothing" is an empty box, a box
whose object was removed, and a half-finished edit. Shifted boxes, blur and colour changes imitate
the effects of a model and its VAE.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from demo import scenes
from demo.judge import NOTHING, crops, to_shares
from demo.scenes import COLOURS, KINDS, Pixels, Scene, render

SHIFT, STRETCH = 0.15, 1.3
"""The largest shift of a box in sides, and its largest scale: a model may draw the new object with
another position and size than the old one."""


class Examples(NamedTuple):
    """Pictures, uint8 [N, S, S, 3], a box in each, float32 [N, 4], and its class.

    kinds: int64 [N], NOTHING if there is no whole object; colours: int64 [N], -1 there.
    """

    pictures: Tensor
    boxes: Tensor
    kinds: Tensor
    colours: Tensor


def _nothing(pictures: Tensor, boxes: Tensor) -> Examples:
    """Return examples of boxes without a whole object."""
    zeros = torch.zeros(len(boxes), dtype=torch.int64)
    return Examples(pictures, boxes, zeros + NOTHING, zeros - 1)


@dataclass(frozen=True, eq=False)
class Pool:
    """N scenes, and each with one object recoloured, replaced or removed.

    images, changed: uint8 [N, S, S, 3]; boxes: float32 [N, 3, 4], zeros where there is no object;
    objects: int64 [M, 4], the scene, index, kind and colour of each object; index: int64 [N], the
    changed object; became: int64 [N, 2], its new kind and colour; removed: bool [N].
    """

    images: Tensor
    changed: Tensor
    boxes: Tensor
    objects: Tensor
    index: Tensor
    became: Tensor
    removed: Tensor

    @classmethod
    def draw(cls, seeds: range, size: int = 64) -> Pool:
        """Draw the scenes of these seeds; a third is recoloured, replaced and removed each."""
        images, changed = np.empty((2, len(seeds), size, size, 3), np.uint8)
        boxes, objects, index = np.zeros((len(seeds), 3, 4), np.float32), [], []
        became = np.zeros((len(seeds), 2), np.int64)
        for n, seed in enumerate(seeds):
            scene = scenes.scene(seed, size)
            for i, item in enumerate(scene.objects):
                boxes[n, i] = item.box
                objects.append((n, i, KINDS.index(item.kind), COLOURS.index(item.colour)))
            index.append(seed // 3 % len(scene.objects))
            images[n] = scene.image
            changed[n], (kind, colour) = _changed(scene, index[n], seed % 3)
            became[n] = KINDS.index(kind), COLOURS.index(colour)
        rest = np.array(objects), np.array(index), became, np.array(seeds) % 3 == 2
        return cls(*map(torch.from_numpy, (images, changed, boxes, *rest)))

    def whole(self, rows: Tensor) -> Examples:
        """Return the objects in these rows of `objects`."""
        n, i, kinds, colours = self.objects[rows].unbind(1)
        return Examples(self.images[n], self.boxes[n, i], kinds, colours)

    def done(self, rows: Tensor) -> Examples:
        """Return the new objects of these scenes, in the boxes of the old ones."""
        rows = rows[~self.removed[rows]]
        kinds, colours = self.became[rows].unbind(1)
        return Examples(self.changed[rows], self.boxes[rows, self.index[rows]], kinds, colours)

    def empty(self, rows: Tensor, generator: torch.Generator) -> Examples:
        """Return an empty box of an object's size in each of these scenes that has room for it."""
        random = torch.rand((len(rows), 12, 3), generator=generator)  # twelve candidates
        side = 0.27 + 0.31 * random[..., :1]
        corner = random[..., 1:] * (1 - side)
        boxes = torch.cat([corner, corner + side], 2)
        free = (overlap(boxes[:, :, None], self.boxes[rows][:, None]) < 0.1).all(2)
        room, first = free.any(1), free.int().argmax(1)
        return _nothing(self.images[rows[room]], boxes[room, first[room]])

    def gone(self, rows: Tensor) -> Examples:
        """Return the boxes of removed objects in these scenes."""
        rows = rows[self.removed[rows]]
        return _nothing(self.changed[rows], self.boxes[rows, self.index[rows]])

    def half_done(self, rows: Tensor, generator: torch.Generator) -> Examples:
        """Return half-finished edits of these scenes: the old and the new object in one.

        Only clear cases: the edit changes at least a quarter of the box by 48 levels or more, and
        30 to 70 % of these pixels are new.
        """
        rows = rows[~self.removed[rows]]
        before, after = self.images[rows], self.changed[rows]
        boxes, size = self.boxes[rows, self.index[rows]], before.shape[1]
        at = (torch.arange(size) + 0.5) / size
        x, y = ((at - boxes[:, i, None]) / (boxes[:, i + 2] - boxes[:, i])[:, None] for i in (0, 1))
        x, y = torch.broadcast_tensors(x[:, None, :], y[:, :, None])
        split = (0.35 + 0.30 * torch.rand(len(rows), generator=generator))[:, None, None]
        pattern = torch.randint(4, (len(rows),), generator=generator)[:, None, None]
        halves = torch.where(pattern == 2, x, y) < split
        done = torch.where(pattern < 2, _patches(len(rows), size, generator), halves)
        inside = (x > 0) & (x < 1) & (y > 0) & (y < 1)
        differs = inside & ((before.short() - after.short()).abs().amax(3) >= 48)
        count = differs.sum((1, 2))
        share = (differs & done).sum((1, 2)) / count.clamp(min=1)
        clear = (share >= 0.3) & (share <= 0.7) & (count >= inside.sum((1, 2)) / 4)
        mixed = torch.where(done[clear][..., None], after[clear], before[clear])
        return _nothing(mixed, boxes[clear])

    def batch(self, count: int, generator: torch.Generator) -> Examples:
        """Return about `count` random examples: ten sixteenths whole objects, the rest nothing."""
        scenes, objects = len(self.images), len(self.objects)
        # A third of the scenes lost an object; half of the other edits are clear when half done.
        wanted = ((6, objects), (6, scenes), (2, scenes), (5, scenes), (9, scenes))
        rows = [torch.randint(n, (k * count // 16,), generator=generator) for k, n in wanted]
        parts = (
            self.whole(rows[0]),
            self.done(rows[1]),
            self.empty(rows[2], generator),
            self.gone(rows[3]),
            self.half_done(rows[4], generator),
        )
        return Examples(*map(torch.cat, zip(*parts, strict=True)))


def _changed(scene: Scene, i: int, change: int) -> tuple[Pixels, tuple[str, str]]:
    """Return the picture with object `i` recoloured (0), replaced (1) or removed (2), and the kind
    and colour that the object has then or had."""
    if change < 2:
        edit = scene.edits()[2 * i + change]
        return scene.edited(edit).image, (edit.kind, edit.colour)
    items, item = scene.recipe.objects, scene.objects[i]
    rest = replace(scene.recipe, objects=items[:i] + items[i + 1 :])
    return render(rest, len(scene.image))[0], (item.kind, item.colour)


def _patches(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Return random masks of large patches of latent cells, bool [count, size, size]."""
    noise = torch.randn((count, 1, size // 8, size // 8), generator=generator)
    cells = F.interpolate(noise, (size // 4, size // 4), mode="bicubic")[:, 0] > 0
    return cells.repeat_interleave(4, 1).repeat_interleave(4, 2)


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """Return the intersection over union of boxes [..., 4] and [..., 4]."""
    sides = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    shared = sides.clamp(min=0).prod(-1)
    areas = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1)
    return shared / (areas - shared)


def augmented(examples: Examples, generator: torch.Generator) -> Tensor:
    """Return crops, float32 [N, 3, 32, 32] in 0..1, with random boxes, blur, colour and noise."""
    count, size = len(examples.boxes), examples.pictures.shape[1]

    def spread(reach: float, *shape: int) -> Tensor:
        return reach * (2 * torch.rand((count, *shape), generator=generator) - 1)

    first, last = examples.boxes.split(2, 1)
    middle = (first + last) / 2 + spread(SHIFT, 2) * (last - first)
    half = (last - first) / 2 * (STRETCH ** spread(1.0, 1))
    boxes, blur = torch.cat([middle - half, middle + half], 1), (0.6 + spread(0.6)) * size / 64
    pixels = crops(to_shares(examples.pictures), boxes, blur)
    noise = (0.01 + spread(0.01, 1, 1, 1)) * torch.randn(pixels.shape, generator=generator)
    contrast, light = 1 + spread(0.08, 1, 1, 1), 1 + spread(0.08, 1, 1, 1)
    gain = 1 + spread(0.04, 3, 1, 1)
    mean = pixels.mean((1, 2, 3), keepdim=True)
    return (((pixels - mean) * contrast + mean) * (light * gain) + noise).clamp(0, 1)
