"""Sheets of pictures that show the progress of a training run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffusers import DDIMScheduler
from diffusers.utils import make_image_grid
from PIL import Image

from demo.random_checkpoint import SD_SCHEDULER
from demo.training import TrainingError
from demo.training.networks import Denoiser
from demo.training.trainer import generator
from engine.loader import quiet

SAMPLE_CAPTIONS = (
    "a red ball on a wooden table",
    "a green cube in a studio",
    "a yellow star on a pink background",
    "a purple pear on the beach",
    "a white mug on a striped cloth",
    "a black heart on a grey background",
    "an orange cone on the grass",
    "a blue ring on a checked cloth",
    "a red ball and a green cube on a wooden table",
    "a green ball and a red cube on a wooden table",
    "a blue mug and a yellow pear in a studio",
    "a yellow mug and a blue pear in a studio",
    "a red heart and a white ring and a blue cone on the grass",
    "a blue heart and a red ring and a white cone on the grass",
    "an orange star and a black ball and a green mug on the beach",
    "a green star and an orange ball and a black mug on the beach",
)
"""The captions of the sheet. The later ones are pairs with swapped colours."""


def sample(
    denoiser: Denoiser, vae: Any, tokenizer: Any, captions: Sequence[str], steps: int
) -> list[Image.Image]:
    """Draw one picture for each caption from fixed noise with diffusers' pipeline."""
    return _draw(denoiser, vae, tokenizer, captions, steps, DDIMScheduler, guidance=5.0)


def _draw(
    denoiser: Denoiser,
    vae: Any,
    tokenizer: Any,
    captions: Sequence[str],
    steps: int,
    scheduler: Any,
    guidance: float,
) -> list[Image.Image]:
    with quiet():  # the import warns that torchvision is missing; it is not needed here
        from diffusers import StableDiffusionPipeline
    pipeline: Any = StableDiffusionPipeline(
        vae,
        denoiser.text_encoder,
        tokenizer,
        denoiser.unet,
        scheduler.from_config(SD_SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    noise = [generator(0, "samples", i) for i in range(len(captions))]
    result = pipeline(
        list(captions), num_inference_steps=steps, guidance_scale=guidance, generator=noise
    )
    images: list[Image.Image] = result.images
    return images


def few_step_sample(
    denoiser: Denoiser, vae: Any, tokenizer: Any, captions: Sequence[str], steps: int
) -> list[Image.Image]:
    """Draw one picture for each caption from fixed noise with diffusers' LCM sampler."""
    from diffusers import LCMScheduler

    return _draw(denoiser, vae, tokenizer, captions, steps, LCMScheduler, guidance=1.0)


def write_sheet(path: Path, pictures: Sequence[Image.Image]) -> None:
    """Write pictures in rows of eight, enlarged twice."""
    sheet = make_image_grid(list(pictures), rows=len(pictures) // 8, cols=8)
    sheet = sheet.resize((2 * sheet.width, 2 * sheet.height), Image.Resampling.NEAREST)
    part = path.with_suffix(".part.png")
    try:
        sheet.save(part)
        os.replace(part, path)
    except OSError as error:
        raise TrainingError(f"cannot write {path}: {error}") from error
