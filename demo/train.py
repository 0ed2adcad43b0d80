"""Train the demo's model on the scenes the project draws, and write it as a checkpoint.

    python -m demo.train --out FOLDER [--work build/train] [--minutes 140] [--resume]

First the VAE (a fifth of the time), then text encoder and UNet together. Ctrl-C or SIGTERM saves
and ends the run; `--resume` goes on with it. The work folder has the states and, every ten minutes,
a sheet of samples; `--export-only` writes the checkpoint of what has been learnt so far.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

# Nothing heavy is imported here: the processes that draw scenes import this module again.


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 1, or 128 and the signal's number."""
    args = _parser().parse_args(argv)
    size = args.size or (32 if args.smoke else 128)
    if size < 32 or size % 32:
        _parser().error(f"--size {size}: a multiple of 32 from 32 up")
    if not args.minutes > 0:
        _parser().error(f"--minutes {args.minutes}: more than 0")

    from demo.train_loop import Stopped, TrainingError, stoppable
    from demo.train_run import Run, Settings

    settings = Settings(
        out=args.out,
        work=args.work,
        minutes=args.minutes,
        device=args.device,
        size=size,
        seed=args.seed,
        pool=256 if args.smoke else args.pool,
        resume=args.resume,
        steps=(20, 24) if args.smoke else None,
        batches=(4, 8) if args.smoke else None,
        line_seconds=0.2 if args.smoke else 20.0,
        start=args.start,
    )
    try:
        with stoppable() as stop:
            run = Run(settings, stop)
            if args.export_only:
                run.export_only()
            else:
                run.train()
    except Stopped as stopped:
        print(f"{stopped}; go on with --resume", file=sys.stderr)
        return 128 + stopped.number
    except (TrainingError, OSError) as error:
        print(f"train: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("demo.train", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="the checkpoint's folder")
    parser.add_argument("--work", type=Path, default=Path("build/train"), help="states and sheets")
    parser.add_argument("--minutes", type=float, default=140.0, help="for both stages")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--size", type=int, help="side of a picture in pixels (128)")
    parser.add_argument("--pool", type=int, default=65_536, help="how many scenes to train on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on with the run in --work")
    parser.add_argument(
        "--from",
        dest="start",
        type=Path,
        help="keep this checkpoint's VAE and let its text encoder and UNet learn on",
    )
    parser.add_argument("--export-only", action="store_true", help="write what --work has now")
    parser.add_argument("--smoke", action="store_true", help="a few steps of everything, a minute")
    return parser


if __name__ == "__main__":
    sys.exit(main())
