"""What the demo's model draws from words alone, through diffusers' own pipeline.

    python -m demo.captions OUT.png [--model demo/model] [--guidance 4] [--steps 50]

Four captions, four seeds each, none chosen by their looks. It shows that the checkpoint is one like
any other: nothing of this project takes part but its weights.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from demo.gallery import GUIDANCE, stacked

CAPTIONS = (
    "a red ball on a wooden table",
    "a yellow pear on the grass",
    "a blue mug and a green cube in a studio",
    "a purple star and an orange cone on a checked cloth",
)
SEEDS = (0, 1, 2, 3)


def draw(model: Path, guidance: float, steps: int) -> list[list[Image.Image]]:
    """A line of pictures for each caption."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    pipe: Any = StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return [
        pipe(
            [caption] * len(SEEDS),
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        ).images
        for caption in CAPTIONS
    ]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", type=Path, help="the sheet, a PNG file")
    parser.add_argument("--model", type=Path, default=Path("demo/model"))
    parser.add_argument("--guidance", type=float, default=GUIDANCE)
    parser.add_argument("--steps", type=int, default=50)
    args = parser.parse_args()
    try:
        lines = draw(args.model, args.guidance, args.steps)
        rows = [Image.fromarray(np.concatenate([np.asarray(p) for p in line], 1)) for line in lines]
        args.file.parent.mkdir(parents=True, exist_ok=True)
        stacked(rows, CAPTIONS).save(args.file, optimize=True)
    except (OSError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    print(f"{len(CAPTIONS)} captions: {args.file}")


if __name__ == "__main__":
    main()
