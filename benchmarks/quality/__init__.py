"""How good masks and edits are: on scenes whose truth is known, or on an edit set of your own.

    python -m benchmarks quality [--model demo/model] [--parts table,curves,sweeps] [--resume]
    python -m benchmarks quality --edits EDITS.jsonl --model CHECKPOINT [--strengths 0.5,0.7,0.9]

The first form edits the demo's reserved scenes (`demo/scenes.py`) with our pipeline, its ablations
and diffusers' own pipeline, and writes tables, plots and sheets into `--out`. Means come with 95 %
bootstrap intervals. `sweeps` runs on other scenes: it is for choosing settings, not for measuring.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import torch

from benchmarks.quality.editors import Models
from benchmarks.quality.settings import Fixed
from engine.checkpoint import Checkpoint

CHOSEN = Fixed(steps=50, guidance=5.0, strength=0.9, ratio=4.0, noise=0.7)
"""The fixed setting, chosen on other scenes than it is measured on: of guidance 4, 5 and 7.5,
strength 0.8 and 0.9, clip ratio 3 to 4 and noise 0.6 and 0.7 the best on 40 development edits."""
PARTS = ("table", "curves", "sweeps")
SMALL = 200_000_000
"""Bytes of a UNet's weights up to which a process a core outruns one process with all cores."""


def run(arguments: list[str]) -> dict[str, Any]:
    """Measure, print, draw; returns what the json line holds."""
    args = _parser().parse_args(arguments)
    models = Models(args.model, args.backend, args.engines, args.device, args.dtype)
    if args.edits is not None:
        from benchmarks.quality import own_edits

        return own_edits.run(args, models)
    from benchmarks.quality import scenes_run

    if args.workers is None:
        args.workers = workers_for(Checkpoint.open(args.model), args.device)
    return scenes_run.run(args, models)


def workers_for(checkpoint: Checkpoint, device: str | None) -> int:
    """Processes to edit with: one on a GPU or with large networks, else one a core."""
    gpu = torch.cuda.is_available() and (device or "cuda").startswith("cuda")
    large = sum(path.stat().st_size for path in checkpoint.weights("unet")) > SMALL
    return 1 if gpu or large else os.cpu_count() or 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", type=Path, default=Path("demo/model"), help="a checkpoint (demo/model)")
    add("--backend", default="torch", help="auto, torch, onnxruntime or tensorrt (torch)")
    add("--engines", type=Path, help="an engine folder, for the last two")
    add("--device", help="cpu, cuda, cuda:N (a GPU where there is one)")
    add("--dtype", help="of the torch backend: fp32, bf16 or fp16 (the safe best)")
    add("--out", type=Path, default=Path("build/quality"), help="tables, plots, sheets, parts")
    add("--resume", action="store_true", help="keep what an interrupted run has finished")
    add("--steps", type=int, default=CHOSEN.steps, help="N, grid points of the schedule (50)")
    add("--guidance", type=float, default=CHOSEN.guidance, help="scale; the paper: 5 or 7.5")
    add("--ratio", type=float, default=CHOSEN.ratio, help="clip ratio of the mask; the paper's: 3")
    add(
        "--noise",
        type=float,
        default=CHOSEN.noise,
        help="that masks are found at; the paper's: 0.5",
    )
    own = parser.add_argument_group("on the demo's scenes")
    add = own.add_argument
    add("--parts", type=_parts, default=("table", "curves"), help="of table,curves,sweeps")
    add("--count", type=int, default=240, help="evaluation edits (240)")
    add("--curve-steps", type=int, default=25, help="N for curves and sweeps (25)")
    add("--strength", type=float, default=CHOSEN.strength, help="of the table and the sweeps")
    add("--show", type=_seeds, default=(), help="seeds of edits to draw into shown.png as well")
    add("--workers", type=int, help="processes (one a core for small networks on a CPU)")
    users = parser.add_argument_group("on an edit set of your own")
    add = users.add_argument
    add(
        "--edits", type=Path, help="one json object a line: image, prompt, source, mask, seed, name"
    )
    add("--strengths", type=_numbers, default=(0.5, 0.6, 0.7, 0.8, 0.9), help="0.5,0.6,...")
    add("--method", default="diffedit", help="or encode-decode, masked-sdedit, sdedit")
    add("--no-source", action="store_true", help="ignore the source texts, as the paper's ImageNet")
    add("--save", type=Path, help="a folder for the edited pictures")
    add("--clip", help="a CLIP model for the CLIP score: folder or hub id")
    add("--lpips", choices=("alex", "vgg", "squeeze"), help="measure LPIPS with this backbone")
    add("--fid", action="store_true", help="measure FID")
    add("--fid-reference", type=Path, help="folder of real pictures for FID (the set's inputs)")
    return parser


def _parts(text: str) -> tuple[str, ...]:
    parts = tuple(text.split(","))
    if not set(parts) <= set(PARTS):
        raise argparse.ArgumentTypeError(f"{text!r}: take some of {','.join(PARTS)}")
    return parts


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no list of seeds as in 1000003,1000014"
        ) from None


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers as in 0.5,0.7") from None
