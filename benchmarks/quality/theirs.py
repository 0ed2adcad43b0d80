"""diffusers' own `StableDiffusionDiffEditPipeline` as an editor, called as its guide calls it.

Options: num_inference_steps, guidance_scale and strength of the edit (its defaults otherwise), and
`invert_prompt` (the source text) and `invert_guidance` (its default, 7.5) of the inversion.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.quality.cases import Case
from benchmarks.quality.editors import Outcome, texts
from benchmarks.quality.settings import Setting
from benchmarks.theirs import open_pipeline


class Theirs:
    """Their pipeline in fp32 (fp16 on a GPU), with their DDIM schedulers."""

    def __init__(self, model: Path, device: str | None = None) -> None:
        place = device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.float16 if place.startswith("cuda") else torch.float32
        self.pipe, self.place = open_pipeline(model, place, dtype), place

    def __call__(self, setting: Setting, case: Case) -> Outcome:
        """Mask, inversion, decoding: three calls, each with the case's own seed."""
        source, target = texts(setting, case)
        image = Image.fromarray(case.image)
        chosen = dict(setting.options)
        invert = {
            "prompt": chosen.pop("invert_prompt", source),
            "guidance_scale": chosen.pop("invert_guidance", 7.5),
        }
        steps = {"num_inference_steps": chosen.pop("num_inference_steps", 50)}
        depth = {"inpaint_strength": chosen.pop("strength", 0.8)}
        scale = {"guidance_scale": chosen.pop("guidance_scale", 7.5)}
        assert not chosen, chosen
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mask = self.pipe.generate_mask(
                image=image,
                source_prompt=source,
                target_prompt=target,
                generator=self._generator(case),
                **steps,
                **scale,
            )
            latents = self.pipe.invert(
                image=image, generator=self._generator(case), **invert, **steps, **depth
            ).latents
            after = self.pipe(
                prompt=target,
                mask_image=mask,
                image_latents=latents,
                generator=self._generator(case),
                **steps,
                **depth,
                **scale,
            ).images[0]
        cells = mask[0].astype(bool)
        cell = len(case.image) // len(cells)
        return Outcome(np.asarray(after.convert("RGB")), cells.repeat(cell, 0).repeat(cell, 1))

    def _generator(self, case: Case) -> torch.Generator:
        return torch.Generator(self.place).manual_seed(case.seed)
