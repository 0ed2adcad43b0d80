"""`python -m demo.random_checkpoint`: write the checkpoint completely or not at all."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from demo import random_checkpoint


def main() -> None:
    """Run the command line."""
    description = (random_checkpoint.__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m demo.random_checkpoint")
    parser.description = description
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kind", choices=sorted(random_checkpoint.KINDS), default="tiny")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=["fp32", "fp16", "bf16"], default="fp32")
    args = parser.parse_args()
    if args.folder.exists():
        print(f"{args.folder} exists already; nothing to do.")
        return
    args.folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.folder.parent) as temporary:
        made = random_checkpoint.make(
            Path(temporary) / "made", args.kind, seed=args.seed, dtype=args.dtype
        )
        os.replace(made, args.folder)
    size = sum(f.stat().st_size for f in args.folder.rglob("*") if f.is_file())
    print(f"wrote {args.folder} ({args.kind}, random weights, {size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
