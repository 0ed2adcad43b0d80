"""The comparison: diffusers' `StableDiffusionDiffEditPipeline` at the defaults of its three calls.

Its guide also passes the source text as the negative prompt of the last call
(`EditOptions.negative_source`); the example in the pipeline's docstring does not.
`tuned` adds what its public interface allows: channels_last, inversion without text or guidance,
and one VAE encode by passing latents instead of the picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from engine.loader import quiet


@dataclass(frozen=True)
class EditOptions:
    """The options of the pipeline's three calls; the defaults are diffusers' own.

    Attributes:
        invert_prompt: the text of the inversion; None for the source text.
        invert_guidance: its guidance scale.
        negative_source: guide away from the source text, as diffusers' guide does.
    """

    steps: int = 50
    strength: float = 0.8
    guidance: float = 7.5
    maps: int = 10
    invert_prompt: str | None = None
    invert_guidance: float = 7.5
    negative_source: bool = False


@dataclass(frozen=True, eq=False)
class Edited:
    """One edit: RGB picture, mask bool [h, w] on the latent grid, rows of the UNet."""

    image: Image.Image
    mask: NDArray[np.bool_]
    rows: int


class DiffusersBaseline:
    """The pipeline in fp32 (fp16 on CUDA) by default, with DDIM in both directions."""

    def __init__(
        self,
        model: Path,
        device: str | None = None,
        dtype: torch.dtype | None = None,
        *,
        tuned: bool = False,
        compile: bool = False,
    ) -> None:
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        cuda = self.device.startswith("cuda")
        self.dtype = dtype or (torch.float16 if cuda else torch.float32)
        self.tuned, self.rows = tuned, 0
        self._pipe = _open(model, self.device, self.dtype)
        if tuned:
            self._pipe.unet.to(memory_format=torch.channels_last)
            self._pipe.vae.to(memory_format=torch.channels_last)
        if compile:
            self._pipe.unet.compile(dynamic=False)
        self._pipe.unet.register_forward_pre_hook(self._count, with_kwargs=True)

    @torch.inference_mode()
    def edit(
        self, image: Image.Image, source: str, prompt: str, seed: int, options: EditOptions
    ) -> Edited:
        """Generate the mask, invert, denoise: the pipeline's three calls."""
        before = self.rows
        steps = {"num_inference_steps": options.steps}
        depth = {"inpaint_strength": options.strength}
        text = source if options.invert_prompt is None else options.invert_prompt
        invert = {"prompt": text, "guidance_scale": options.invert_guidance}
        picture: Any = image
        if self.tuned:
            invert, picture = {"prompt": "", "guidance_scale": 1.0}, self._latents(image)
        with quiet():
            mask = self._pipe.generate_mask(
                image=picture,
                source_prompt=source,
                target_prompt=prompt,
                num_maps_per_mask=options.maps,
                generator=self._generator(seed),
                guidance_scale=options.guidance,
                **steps,
            )
            latents = self._pipe.invert(
                image=picture, generator=self._generator(seed), **invert, **steps, **depth
            ).latents
            result = self._pipe(
                prompt=prompt,
                negative_prompt=source if options.negative_source else None,
                mask_image=mask,
                image_latents=latents,
                generator=self._generator(seed),
                guidance_scale=options.guidance,
                **steps,
                **depth,
            ).images[0]
        return Edited(result.convert("RGB"), mask[0].astype(bool), self.rows - before)

    def _generator(self, seed: int) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(seed)

    def _latents(self, image: Image.Image) -> Any:
        """The picture's latents, so that the VAE encodes it once."""
        vae = self._pipe.vae
        pixels = self._pipe.image_processor.preprocess(image).to(self.device, vae.dtype)
        return vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor

    def _count(self, module: Any, args: Any, kwargs: Any) -> None:
        self.rows += len(args[0] if args else kwargs["sample"])


def _open(model: Path, device: str, dtype: torch.dtype) -> Any:
    """diffusers' pipeline without a safety checker and without progress bars."""
    from diffusers import DDIMInverseScheduler, DDIMScheduler, StableDiffusionDiffEditPipeline

    with quiet():  # the pipeline is marked as deprecated
        pipe: Any = StableDiffusionDiffEditPipeline.from_pretrained(
            model,
            torch_dtype=dtype,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
            inverse_scheduler=None,
        )
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.inverse_scheduler = DDIMInverseScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)
