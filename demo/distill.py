"""Distil the demo's model into a LoRA that samples in a few steps, for the preset `instant`.

    python -m demo.distill --out FOLDER [--model demo/model] [--work build/distill] [--minutes 80]

A third of the time samples with the model from noisy scenes, the rest trains the LoRA to predict
where that ends. Ctrl-C or SIGTERM saves the state and ends the run; `--resume` continues it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 0, 1, or 128 + the signal's number."""
    parser = _parser()
    args = parser.parse_args(argv)
    if not args.minutes > 0:
        parser.error(f"--minutes {args.minutes}: it must be more than 0")

    from demo.training import TrainingError
    from demo.training.distillation import Distillation, Settings
    from demo.training.interrupts import Interrupted, interruptible

    smoke: dict[str, Any] = {
        "parts": 2, "steps": 20, "batch_size": 8, "log_seconds": 0.2, "held_out_parts": 1,
    }  # fmt: skip
    settings = Settings(
        args.out, args.work, args.model, minutes=args.minutes, device=args.device,
        seed=args.seed, resume=args.resume, **(smoke if args.smoke else {}),
    )  # fmt: skip
    try:
        with interruptible() as interrupts:
            Distillation(settings, interrupts).run()
    except Interrupted as interrupted:
        print(f"{interrupted}; continue with --resume", file=sys.stderr)
        return interrupted.exit_status
    except (TrainingError, OSError) as error:
        print(f"distill: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("demo.distill", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of the LoRA and its card")
    add("--model", type=Path, default=Path("demo/model"), help="the checkpoint to distil")
    add("--work", type=Path, default=Path("build/distill"), help="folder of the states and sheets")
    add("--minutes", type=float, default=80.0, help="time for both stages")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--seed", type=int, default=0)
    add("--resume", action="store_true", help="continue the run in --work")
    add("--smoke", action="store_true", help="run a few steps of everything in a minute")
    return parser


if __name__ == "__main__":
    sys.exit(main())
