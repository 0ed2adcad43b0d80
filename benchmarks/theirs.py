"""diffusers' own DiffEdit pipeline, opened as its guide says: what ours is compared with."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch


def open_pipeline(model: Path, device: str | torch.device, dtype: torch.dtype) -> Any:
    """`StableDiffusionDiffEditPipeline` with DDIM both ways, no safety checker, no progress bar."""
    from diffusers import DDIMInverseScheduler, DDIMScheduler, StableDiffusionDiffEditPipeline
    from diffusers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it announces that it is deprecated
            pipe: Any = StableDiffusionDiffEditPipeline.from_pretrained(
                model,
                torch_dtype=dtype,
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
                inverse_scheduler=None,
            )
    finally:
        logging.set_verbosity(level)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.inverse_scheduler = DDIMInverseScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)
