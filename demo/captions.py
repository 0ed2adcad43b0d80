"""Draw pictures from captions with the demo's model, through diffusers' own pipeline.

    python -m demo.captions OUT.png [--model demo/model] [--guidance 4] [--steps 50]

The sheet has four captions with four seeds each, which are fixed. Of this project only the weights
are used: the checkpoint works in diffusers like any other.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

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


def draw(model: Path, guidance: float, steps: int) -> list[Image.Image]:
    """Return a row of pictures for each caption."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from diffusers.utils import make_image_grid

    pipe: Any = StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    rows: list[Image.Image] = []
    for caption in CAPTIONS:
        images = pipe(
            [caption] * len(SEEDS),
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        ).images
        rows.append(make_image_grid(images, rows=1, cols=len(SEEDS)))
    return rows


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", type=Path, help="the sheet, a PNG file")
    parser.add_argument("--model", type=Path, default=Path("demo/model"))
    parser.add_argument("--guidance", type=float, default=GUIDANCE)
    parser.add_argument("--steps", type=int, default=50)
    args = parser.parse_args()
    try:
        rows = draw(args.model, args.guidance, args.steps)
        args.file.parent.mkdir(parents=True, exist_ok=True)
        stacked(rows, CAPTIONS).save(args.file, optimize=True)
    except (OSError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    print(f"wrote {args.file} ({len(CAPTIONS)} captions)")


if __name__ == "__main__":
    main()
