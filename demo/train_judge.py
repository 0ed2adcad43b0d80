"""Train the judge that decides whether an edit of a scene succeeded, on renders alone.

    python -m demo.train_judge --out demo/judge [--minutes 5] [--seed 0] [--vae FOLDER]

It learns whole objects by kind and colour, in their own boxes and in those of objects they took the
place of, and "nothing": empty places, places whose object is gone, and half-done edits, two objects
in one. Boxes that are off, blur and shifts of colour stand for what a model and its VAE do to a
picture; no picture of a model is trained on. Steps see seeds below 970,000
only; the reserved seeds are drawn once, after the training, for the accuracy that is reported.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from demo import scenes
from demo.drawing import Pixels, render
from demo.judge import NOTHING, Judge, JudgeError, Network, crops, to_shares
from demo.scenes import COLOURS, KINDS
from demo.train_loop import Part, Plan, Stop, Stopped, Training, TrainingError, generator, stoppable
from demo.train_machine import choose_device, hardware
from demo.train_vae import round_trip

UNSEEN = 970_000  # the first seed that no step sees
SHIFT, STRETCH = 0.15, 1.3
"""How far a box may be off its object, in its sides, and how much too large or too small it may be:
an edit draws an object of its own size and place into the old one's box."""
HELD_OUT = scenes.training_seeds(1000, start=980_000)  # to choose by, unlike the reserved ones


@dataclass(frozen=True, eq=False)
class Pool:
    """N scenes, each beside itself with one object recoloured, replaced or gone.

    images, changed: uint8 [N, S, S, 3]; boxes: float32 [N, 3, 4], zeros where there is no object;
    objects: int64 [M, 4], of each its scene, its place in it, kind and colour; index: int64 [N],
    which one is changed; became: int64 [N, 2], its kind and colour then; gone: bool [N], where it
    is no more.
    """

    images: Tensor
    changed: Tensor
    boxes: Tensor
    objects: Tensor
    index: Tensor
    became: Tensor
    gone: Tensor

    @classmethod
    def draw(cls, seeds: range, size: int = 64) -> Pool:
        images, changed = np.empty((2, len(seeds), size, size, 3), np.uint8)
        boxes, objects, index = np.zeros((len(seeds), 3, 4), np.float32), [], []
        became = np.zeros((len(seeds), 2), np.int64)
        for n, seed in enumerate(seeds):
            scene = scenes.scene(seed, size)
            for i, thing in enumerate(scene.objects):
                boxes[n, i] = thing.box
                objects.append((n, i, KINDS.index(thing.kind), COLOURS.index(thing.colour)))
            index.append(seed // 3 % len(scene.objects))
            images[n] = scene.image
            changed[n], (kind, colour) = _changed(scene, index[n], seed % 3)
            became[n] = KINDS.index(kind), COLOURS.index(colour)
        rest = np.array(objects), np.array(index), became, np.array(seeds) % 3 == 2
        return cls(*map(torch.from_numpy, (images, changed, boxes, *rest)))


def _changed(scene: scenes.Scene, i: int, how: int) -> tuple[Pixels, tuple[str, str]]:
    """With object `i` recoloured (0), replaced (1) or gone (2); and its kind and colour then."""
    if how < 2:
        edit = scene.edits()[2 * i + how]
        return scene.edited(edit).image, (edit.kind, edit.colour)
    things, thing = scene.recipe.things, scene.objects[i]
    rest = replace(scene.recipe, things=things[:i] + things[i + 1 :])
    return render(rest, len(scene.image))[0], (thing.kind, thing.colour)


class Examples(NamedTuple):
    """Pictures, uint8 [N, S, S, 3], a box in each, float32 [N, 4], and what stands there.

    kinds: int64 [N], NOTHING where no whole object is; colours: int64 [N], -1 there.
    """

    pictures: Tensor
    boxes: Tensor
    kinds: Tensor
    colours: Tensor


def nothing(pictures: Tensor, boxes: Tensor) -> Examples:
    """No whole object in any of these boxes."""
    none = torch.zeros(len(boxes), dtype=torch.int64)
    return Examples(pictures, boxes, none + NOTHING, none - 1)


def whole(pool: Pool, rows: Tensor) -> Examples:
    """The objects in these rows of `pool.objects`."""
    n, i, kinds, colours = pool.objects[rows].unbind(1)
    return Examples(pool.images[n], pool.boxes[n, i], kinds, colours)


def done(pool: Pool, rows: Tensor) -> Examples:
    """The new objects of those of these scenes that were edited, where the old ones stood."""
    rows = rows[~pool.gone[rows]]
    kinds, colours = pool.became[rows].unbind(1)
    return Examples(pool.changed[rows], pool.boxes[rows, pool.index[rows]], kinds, colours)


def empty(pool: Pool, rows: Tensor, draw: torch.Generator) -> Examples:
    """Boxes of an object's size that hold none, one in each of these scenes that has room."""
    random = torch.rand((len(rows), 12, 3), generator=draw)  # a dozen tries
    side = 0.27 + 0.31 * random[..., :1]
    corner = random[..., 1:] * (1 - side)
    boxes = torch.cat([corner, corner + side], 2)
    free = (overlap(boxes[:, :, None], pool.boxes[rows][:, None]) < 0.1).all(2)
    room, first = free.any(1), free.int().argmax(1)
    return nothing(pool.images[rows[room]], boxes[room, first[room]])


def gone(pool: Pool, rows: Tensor) -> Examples:
    """Where an object stood, in those of these scenes that lost one."""
    rows = rows[pool.gone[rows]]
    return nothing(pool.changed[rows], pool.boxes[rows, pool.index[rows]])


def half_done(pool: Pool, rows: Tensor, draw: torch.Generator) -> Examples:
    """Edits of these scenes that stopped half-way: before and after in one object.

    Only what can be seen to be two: the edit changes a quarter of the box or more, by 48 levels or
    more, and 30 to 70 % of that is done.
    """
    rows = rows[~pool.gone[rows]]
    before, after = pool.images[rows], pool.changed[rows]
    boxes, size = pool.boxes[rows, pool.index[rows]], before.shape[1]
    at = (torch.arange(size) + 0.5) / size
    x, y = ((at - boxes[:, i, None]) / (boxes[:, i + 2] - boxes[:, i])[:, None] for i in (0, 1))
    x, y = torch.broadcast_tensors(x[:, None, :], y[:, :, None])
    split = (0.35 + 0.30 * torch.rand(len(rows), generator=draw))[:, None, None]
    way = torch.randint(4, (len(rows),), generator=draw)[:, None, None]
    done = torch.where(way < 2, _blobs(len(rows), size, draw), torch.where(way == 2, x, y) < split)
    inside = (x > 0) & (x < 1) & (y > 0) & (y < 1)
    differs = inside & ((before.short() - after.short()).abs().amax(3) >= 48)
    count = differs.sum((1, 2))
    share = (differs & done).sum((1, 2)) / count.clamp(min=1)
    clear = (share >= 0.3) & (share <= 0.7) & (count >= inside.sum((1, 2)) / 4)
    mixed = torch.where(done[clear][..., None], after[clear], before[clear])
    return nothing(mixed, boxes[clear])


def _blobs(count: int, size: int, draw: torch.Generator) -> Tensor:
    """Random masks of latent cells, 4 x 4 pixels, in large patches: bool [count, size, size]."""
    noise = torch.randn((count, 1, size // 8, size // 8), generator=draw)
    cells = F.interpolate(noise, (size // 4, size // 4), mode="bicubic")[:, 0] > 0
    return cells.repeat_interleave(4, 1).repeat_interleave(4, 2)


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes [..., 4] and [..., 4]."""
    both = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    shared = both.clamp(min=0).prod(-1)
    areas = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1)
    return shared / (areas - shared)


def batch(pool: Pool, count: int, draw: torch.Generator) -> Examples:
    """About `count` examples: ten sixteenths whole objects, the rest nothing."""
    every, objects = len(pool.images), len(pool.objects)
    # A third of the scenes lost an object; of the others' edits, half can be seen half done.
    wanted = ((6, objects), (6, every), (2, every), (5, every), (9, every))
    rows = [torch.randint(of, (n * count // 16,), generator=draw) for n, of in wanted]
    wholes = whole(pool, rows[0]), done(pool, rows[1])
    nothings = empty(pool, rows[2], draw), gone(pool, rows[3]), half_done(pool, rows[4], draw)
    return Examples(*map(torch.cat, zip(*wholes, *nothings, strict=True)))


def augmented(shown: Examples, draw: torch.Generator, device: torch.device) -> Tensor:
    """Crops, float32 [N, 3, 32, 32] in 0..1, as a box that is off and a soft picture give them."""
    count, size = len(shown.boxes), shown.pictures.shape[1]

    def spread(reach: float, *shape: int) -> Tensor:
        return reach * (2 * torch.rand((count, *shape), generator=draw) - 1)

    first, last = shown.boxes.split(2, 1)
    middle = (first + last) / 2 + spread(SHIFT, 2) * (last - first)
    half = (last - first) / 2 * (STRETCH ** spread(1.0, 1))
    boxes, blur = torch.cat([middle - half, middle + half], 1), (0.6 + spread(0.6)) * size / 64
    seen = crops(to_shares(shown.pictures.to(device)), boxes.to(device), blur.to(device))
    noise = (0.01 + spread(0.01, 1, 1, 1)) * torch.randn(seen.shape, generator=draw)
    contrast, light, gain = (1 + spread(*s) for s in ((0.08, 1, 1, 1),) * 2 + ((0.04, 3, 1, 1),))
    mean = seen.mean((1, 2, 3), keepdim=True)
    seen = (seen - mean) * contrast.to(device) + mean
    return (seen * (light * gain).to(device) + noise.to(device)).clamp(0, 1)


def learn(
    seeds: range, plan: Plan, device: torch.device, stop: Stop, size: int = 64
) -> tuple[Network, Part]:
    """Train on the scenes of these seeds; raises Stopped when a signal comes."""
    assert max(seeds) < UNSEEN
    start = time.perf_counter()
    pool = Pool.draw(seeds, size)
    print(f"drew {len(seeds)} scenes in {time.perf_counter() - start:.0f} s", flush=True)

    def loss(training: Training) -> Tensor:
        draw = training.generator()
        shown = batch(pool, plan.batch, draw)
        kinds, colours = training.model(augmented(shown, draw, device))
        wrong = F.cross_entropy(kinds, shown.kinds.to(device))
        return wrong + F.cross_entropy(colours, shown.colours.to(device), ignore_index=-1)

    torch.manual_seed(plan.seed)
    network: Any = Network()
    network.to(device, memory_format=torch.channels_last)
    with tempfile.TemporaryDirectory() as work:  # it is short: nothing to resume
        training = Training(plan, network, Path(work) / "judge.pt", {})
        training.run(loss, lambda _: None, stop)
    return network, training.part


def measure(
    judge: Judge,
    seeds: range,
    through: Callable[[Pixels], Pixels] = lambda images: images,
    size: int = 64,
) -> dict[str, float]:
    """Shares of right answers on the scenes of these seeds, their pictures sent `through` first.

    Of whole objects: kind, colour, both; of finished edits: both, in the old object's box; of each
    sort of nothing: what was seen as nothing.
    """
    pool, draw, every = Pool.draw(seeds, size), generator(0, "measure", 0), torch.arange(len(seeds))
    kinds, colours = (*KINDS, None), (*COLOURS, None)
    found: dict[str, float] = {}
    for name, shown in {
        "whole": whole(pool, torch.arange(len(pool.objects))),
        "done": done(pool, every),
        "empty": empty(pool, every, draw),
        "gone": gone(pool, every),
        "half_done": half_done(pool, every, draw),
    }.items():
        seen = judge.look(through(shown.pictures.numpy()), shown.boxes.numpy())
        kind = np.array([kinds[k] == s for k, s in zip(shown.kinds, seen.kinds, strict=True)])
        colour = [colours[c] == s for c, s in zip(shown.colours, seen.colours, strict=True)]
        shares = {"kind": kind, "colour": colour, "both": kind & colour}
        if name != "whole":
            shares = {name: kind & colour}
        found |= {f"{name}_crops": len(kind)} | {k: float(np.mean(v)) for k, v in shares.items()}
    return found


def train(args: argparse.Namespace, stop: Stop) -> None:
    """Train, measure, say how good it is and write it; TrainingError, JudgeError or Stopped."""
    device = choose_device(args.device)
    if args.out.exists() and not args.out.is_dir():
        raise JudgeError(f"{args.out} is a file; name a folder")
    through = round_trip(args.vae, device) if args.vae else None
    seeds, count = scenes.training_seeds(300 if args.smoke else 24_000), 40 if args.smoke else 1000
    rate, many, steps = (5e-3, 32, 200) if args.smoke else (2e-3, 128, None)
    size = 64 if args.smoke else args.size
    plan = Plan(
        "judge", rate, many, args.minutes, steps, args.seed, warmup=20,
        save_minutes=float("inf"), sheet_minutes=float("inf"), line_seconds=10.0,
    )  # fmt: skip
    network, part = learn(seeds, plan, device, stop, size)
    facts: dict[str, Any] = {
        "seed": args.seed, "scenes": len(seeds), "size": size, "steps": part.step,
        "batch": plan.batch,
        "seconds": round(part.seconds, 1), "loss": part.history[-1][2],
        "hardware": hardware(device, half=False),
    }  # fmt: skip
    judge, reserved = Judge(network, facts), scenes.evaluation_seeds(count)
    facts["held_out"] = measure(judge, HELD_OUT[:count], size=size)
    facts["evaluation"] = measure(judge, reserved, size=size)
    if through:
        facts["evaluation_through_vae"] = measure(judge, reserved, through, size)
    for name in [key for key, value in facts.items() if isinstance(value, dict)]:
        print(name, "  ".join(f"{k} {v:.4g}" for k, v in facts[name].items()))
    judge.save(args.out)
    print(f"wrote {args.out}")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 1, or 128 and the signal's number."""
    parser = argparse.ArgumentParser("demo.train_judge", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="the judge's folder")
    parser.add_argument("--minutes", type=float, default=5.0, help="of training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=128, help="side of a scene in pixels (128)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--vae", type=Path, help="a checkpoint: measure through its VAE as well")
    parser.add_argument("--smoke", action="store_true", help="a few steps of everything, seconds")
    args = parser.parse_args(argv)
    try:
        with stoppable() as stop:
            train(args, stop)
    except Stopped as stopped:
        print(f"{stopped}; nothing was written", file=sys.stderr)
        return 128 + stopped.number
    except (TrainingError, JudgeError, OSError) as error:
        print(f"train_judge: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
