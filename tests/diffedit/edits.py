"""One cheap edit, and its pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from diffedit import DiffEditPipeline, EditResult

FAST: dict[str, Any] = {"preset": "paper", "num_inference_steps": 5, "num_maps_per_mask": 2}
"""Cleaning the scattered mask of a random model would leave nothing of it."""
TEXTS = ("a red ball on a table", "a blue ball on a table")


def edit(pipe: DiffEditPipeline, photo: Image.Image, **options: Any) -> EditResult:
    source, prompt = TEXTS
    return pipe(photo, prompt, source_prompt=source, **{**FAST, **options})


def pixels(image: Image.Image) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.asarray(image)
