"""Train the demo's model on synthetic scenes and write it as a checkpoint.

    python -m demo.train --out FOLDER [--work build/train] [--minutes 140] [--resume]

A fifth of the time trains the VAE, the rest trains the text encoder and the UNet. Ctrl-C or SIGTERM
saves the state and ends the run; `--resume` continues it. The work folder has the checkpoints and,
every ten minutes, a sheet of samples. `--resume` with fewer minutes than it was trained writes the
model from the newest checkpoints.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

# The worker processes that draw scenes import this module, so heavy imports are in `main`.


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 0, 1, or 128 + the signal's number."""
    parser = _parser()
    args = parser.parse_args(argv)
    size = args.size or (32 if args.smoke else 128)
    if size < 32 or size % 32:
        parser.error(f"--size {size}: it must be a multiple of 32, at least 32")
    if not args.minutes > 0:
        parser.error(f"--minutes {args.minutes}: it must be more than 0")

    from demo.training import TrainingError
    from demo.training.interrupts import Interrupted, interruptible
    from demo.training.run import Run, Settings

    smoke = {"pool": 256, "steps": (20, 24), "batch_sizes": (4, 8), "log_seconds": 0.2}
    settings = Settings(
        args.out, args.work, minutes=args.minutes, device=args.device, size=size, seed=args.seed,
        resume=args.resume, start=args.start, **(smoke if args.smoke else {"pool": args.pool}),
    )  # fmt: skip
    try:
        with interruptible() as interrupts:
            Run(settings, interrupts).train()
    except Interrupted as interrupted:
        print(f"{interrupted}; continue with --resume", file=sys.stderr)
        return interrupted.exit_status
    except (TrainingError, OSError) as error:
        print(f"train: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("demo.train", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of the checkpoint")
    add("--work", type=Path, default=Path("build/train"), help="folder of the states and sheets")
    add("--minutes", type=float, default=140.0, help="time for both stages")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--size", type=int, help="side of a picture in pixels (128)")
    add("--pool", type=int, default=65_536, help="number of training scenes")
    add("--seed", type=int, default=0)
    add("--resume", action="store_true", help="continue the run in --work")
    add("--from", dest="start", type=Path, metavar="CHECKPOINT",
        help="keep this checkpoint's VAE; train its text encoder and UNet further")  # fmt: skip
    add("--smoke", action="store_true", help="run a few steps of everything in a minute")
    return parser


if __name__ == "__main__":
    sys.exit(main())
