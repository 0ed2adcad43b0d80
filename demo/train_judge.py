"""Train the judge that decides whether an edit of a scene succeeded, on renders only.

    python -m demo.train_judge --out demo/judge [--minutes 5] [--seed 0] [--vae FOLDER]

Training uses seeds below 970,000. The reserved seeds are drawn once, after the training, for the
accuracy that is reported.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from demo import scenes
from demo.judge import Judge, JudgeError, Network
from demo.scenes import COLOURS, KINDS, Pixels
from demo.training import TrainingError
from demo.training.hardware import Hardware
from demo.training.interrupts import Interrupted, Interrupts, interruptible
from demo.training.judge_examples import Pool, augmented
from demo.training.trainer import Plan, Progress, Trainer, generator
from demo.training.vae import load_vae, round_trip

TRAINING_END = 970_000
"""The first seed that training does not use."""

HELD_OUT = scenes.training_seeds(1000, start=980_000)
"""Seeds to choose settings by; the reserved ones are for reports only."""


class JudgeBatch(NamedTuple):
    """Crops, float32 [B, 3, 32, 32], and their classes, int64 [B]."""

    crops: Tensor
    kinds: Tensor
    colours: Tensor


def judge_loss(network: Any, batch: JudgeBatch) -> Tensor:
    """Return the sum of the cross-entropies of kind and colour."""
    kinds, colours = network(batch.crops)
    kind_loss = F.cross_entropy(kinds, batch.kinds)
    return kind_loss + F.cross_entropy(colours, batch.colours, ignore_index=-1)


def learn(
    seeds: range, plan: Plan, hardware: Hardware, interrupts: Interrupts, size: int = 64
) -> tuple[Network, Progress]:
    """Train on the scenes of these seeds; raises Interrupted when a signal arrives."""
    assert max(seeds) < TRAINING_END
    pool = Pool.draw(seeds, size)

    def draw(count: int, generator: torch.Generator) -> JudgeBatch:
        examples = pool.batch(count, generator)
        return JudgeBatch(augmented(examples, generator), examples.kinds, examples.colours)

    torch.manual_seed(plan.seed)
    network = Network().to(hardware.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    trainer = Trainer(plan, network, hardware, folder=None)  # short: it is not resumed
    trainer.run(draw, judge_loss, interrupts)
    return network, trainer.progress


def measure(
    judge: Judge,
    seeds: range,
    transform: Callable[[Pixels], Pixels] = lambda images: images,
    size: int = 64,
) -> dict[str, float]:
    """Return the shares of right answers on the scenes of these seeds.

    For whole objects: kind, colour and both. For finished edits: both. For each sort of "nothing":
    the share recognised as nothing. `transform` is applied to the pictures first.
    """
    pool, draw, rows = Pool.draw(seeds, size), generator(0, "measure", 0), torch.arange(len(seeds))
    kinds, colours = (*KINDS, None), (*COLOURS, None)
    figures: dict[str, float] = {}
    for name, examples in {
        "whole": pool.whole(torch.arange(len(pool.objects))),
        "done": pool.done(rows),
        "empty": pool.empty(rows, draw),
        "gone": pool.gone(rows),
        "half_done": pool.half_done(rows, draw),
    }.items():
        verdicts = judge.look(transform(examples.pictures.numpy()), examples.boxes.numpy())
        kind = np.array([kinds[k] for k in examples.kinds]) == np.array(verdicts.kinds)
        colour = np.array([colours[c] for c in examples.colours]) == np.array(verdicts.colours)
        shares = {"kind": kind, "colour": colour, "both": kind & colour}
        if name != "whole":
            shares = {name: kind & colour}
        figures |= {f"{name}_crops": len(kind)} | {k: float(v.mean()) for k, v in shares.items()}
    return figures


def train(args: argparse.Namespace, interrupts: Interrupts) -> None:
    """Train, measure and write the judge; raises TrainingError, JudgeError or Interrupted."""
    hardware = Hardware.select(args.device, allow_bf16=False)
    if args.out.exists() and not args.out.is_dir():
        raise JudgeError(f"{args.out} is a file; pass a folder")
    transform = round_trip(load_vae(args.vae, hardware.device)) if args.vae else None
    seeds, count = scenes.training_seeds(300 if args.smoke else 24_000), 40 if args.smoke else 1000
    rate, batch_size, steps = (5e-3, 32, 200) if args.smoke else (2e-3, 128, None)
    size = 64 if args.smoke else args.size
    plan = Plan("judge", rate, batch_size, args.minutes, steps, args.seed, warmup_steps=20)
    network, progress = learn(seeds, plan, hardware, interrupts, size)
    facts: dict[str, Any] = {
        "seed": args.seed, "scenes": len(seeds), "size": size, "steps": progress.step,
        "batch": batch_size, "seconds": round(progress.seconds, 1), "loss": progress.loss,
        "hardware": str(hardware),
    }  # fmt: skip
    judge, reserved = Judge(network, facts), scenes.evaluation_seeds(count)
    reports = {
        "held_out": measure(judge, HELD_OUT[:count], size=size),
        "evaluation": measure(judge, reserved, size=size),
    }
    if transform:
        reports["evaluation_through_vae"] = measure(judge, reserved, transform, size)
    for name, figures in reports.items():
        print(name, "  ".join(f"{k} {v:.4g}" for k, v in figures.items()))
    facts |= reports
    judge.save(args.out)
    print(f"wrote {args.out}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 0, 1, or 128 + the signal's number."""
    parser = argparse.ArgumentParser("demo.train_judge", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the judge")
    parser.add_argument("--minutes", type=float, default=5.0, help="training time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=128, help="side of a scene in pixels (128)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--vae", type=Path, help="also measure through this checkpoint's VAE")
    parser.add_argument("--smoke", action="store_true", help="run a few steps of everything")
    args = parser.parse_args(argv)
    try:
        with interruptible() as interrupts:
            train(args, interrupts)
    except Interrupted as interrupted:
        print(f"{interrupted}; nothing was written", file=sys.stderr)
        return interrupted.exit_status
    except (TrainingError, JudgeError, OSError) as error:
        print(f"train_judge: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
