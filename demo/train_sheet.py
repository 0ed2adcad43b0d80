"""The sheets a training draws now and then, to be looked at. It knows nothing of networks."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from demo.drawing import Pixels
from demo.train_loop import TrainingError

SHEET = (
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
"""Captions of the sample sheet; the second of each later pair has the first one's colours moved."""


def write_sheet(path: Path, pictures: Pixels, across: int = 8) -> None:
    """Pictures, uint8 [N, H, W, 3], in rows of `across`, twice as large, as PNG."""
    rows = [
        np.concatenate(list(pictures[i : i + across]), 1) for i in range(0, len(pictures), across)
    ]
    sheet = Image.fromarray(np.concatenate(rows))
    part = path.with_suffix(".part.png")
    try:
        sheet.resize((2 * sheet.width, 2 * sheet.height), Image.Resampling.NEAREST).save(part)
        os.replace(part, path)
    except OSError as error:
        raise TrainingError(f"cannot write {path}: {error}") from error
