"""diffusers' own DiffEdit as a baseline: at its defaults, and as a good engineer would tune it.

Both run in the process of what they are compared with. The tuned one keeps to its public interface
as far as that goes: bf16 or fp16, channels_last, optionally compiled, inversion without a text and
without guidance, and one VAE encode by passing latents.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.subject import PROMPT, SOURCE, Subject
from benchmarks.theirs import open_pipeline


@dataclass(frozen=True)
class Made:
    """What an edit gave: mask bool [h, w] and the UNet rows it cost."""

    mask: Any
    rows: int


class Diffusers:
    """Their pipeline on the subject's model; `edit()` makes its three calls."""

    def __init__(
        self,
        subject: Subject,
        device: torch.device,
        dtype: torch.dtype,
        *,
        tuned: bool = False,
        compile: bool = False,
    ) -> None:
        pipe = open_pipeline(subject.model, device, dtype)
        if tuned:
            pipe.unet.to(memory_format=torch.channels_last)
            pipe.vae.to(memory_format=torch.channels_last)
        if compile:
            pipe.unet.compile(dynamic=False)
        self.pipe, self.subject, self.tuned, self.rows = pipe, subject, tuned, 0
        pipe.unet.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, module: Any, args: Any, kwargs: Any) -> None:
        self.rows += len(args[0] if args else kwargs["sample"])

    @torch.inference_mode()
    def edit(self) -> Made:
        """Mask, inversion, decoding."""
        subject, before = self.subject, self.rows
        steps = {"num_inference_steps": subject.steps}
        depth = {"inpaint_strength": subject.strength}
        source: dict[str, Any] = {"prompt": SOURCE}
        image: Any = subject.image
        if self.tuned:
            source = {"prompt": "", "guidance_scale": 1.0}
            image = self._latents(image)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mask = self.pipe.generate_mask(
                image=image,
                source_prompt=SOURCE,
                target_prompt=PROMPT,
                num_maps_per_mask=subject.maps,
                generator=torch.Generator().manual_seed(0),
                **steps,
            )
            path = self.pipe.invert(image=image, **source, **steps, **depth).latents
            self.pipe(
                prompt=PROMPT,
                mask_image=mask,
                image_latents=path,
                guidance_scale=subject.guidance,
                **steps,
                **depth,
            )
        return Made(np.asarray(mask[0]).astype(bool), self.rows - before)

    def _latents(self, image: Any) -> Any:
        """The picture's latents, so that the VAE encodes it once."""
        pixels = self.pipe.image_processor.preprocess(image)
        pixels = pixels.to(self.pipe.device, self.pipe.vae.dtype)
        found = self.pipe.vae.encode(pixels).latent_dist.mode()
        return found * self.pipe.vae.config.scaling_factor
