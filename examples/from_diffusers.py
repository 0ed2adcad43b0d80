"""The same edit by diffusers' pipeline and by this project: see docs/from-diffusers.md.

python examples/from_diffusers.py build/examples/5.png build/examples/both.png \
    "a black cube and a yellow cone on a checked cloth" \
    "a red cube and a yellow cone on a checked cloth"
"""

import sys
import warnings

import numpy as np
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, StableDiffusionDiffEditPipeline
from PIL import Image

from diffedit import DiffEditPipeline

MODEL = "demo/model"
GUIDANCE = 4.0


def by_diffusers(image: Image.Image, source: str, prompt: str) -> Image.Image:
    """The three calls of diffusers' guide, with inversion without text, as in the paper."""
    pipe = StableDiffusionDiffEditPipeline.from_pretrained(
        MODEL, safety_checker=None, requires_safety_checker=False
    )
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.inverse_scheduler = DDIMInverseScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    seed = torch.Generator().manual_seed(0)
    mask = pipe.generate_mask(
        image=image, source_prompt=source, target_prompt=prompt, generator=seed
    )
    latents = pipe.invert(image=image, prompt="", guidance_scale=1.0, generator=seed).latents
    edited: Image.Image = pipe(
        prompt=prompt,
        mask_image=mask,
        image_latents=latents,
        guidance_scale=GUIDANCE,
        generator=seed,
    ).images[0]
    return edited


def by_this_project(image: Image.Image, source: str, prompt: str) -> Image.Image:
    """One call. The mask, the encoding and the decoding are parts of it.

    The preset has the numbers of diffusers' pipeline; the default one takes a quarter of the work.
    """
    with DiffEditPipeline.from_pretrained(MODEL, backend="torch") as pipe:
        result = pipe(image, prompt, source_prompt=source, guidance_scale=GUIDANCE, preset="paper")
        return result.image


def main(file: str, out: str, source: str, prompt: str) -> None:
    """Write input, diffusers' result and ours in a row, and print how much was kept."""
    image = Image.open(file).convert("RGB")
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # the pipeline is deprecated
        theirs = by_diffusers(image, source, prompt)
    ours = by_this_project(image, source, prompt)
    pixels = [np.asarray(one) for one in (image, theirs, ours)]
    for name, result in zip(("diffusers", "diffedit-trt"), pixels[1:], strict=True):
        print(f"{name}: {(result == pixels[0]).all(-1).mean():.0%} of the pixels are unchanged")
    Image.fromarray(np.hstack(pixels)).save(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
