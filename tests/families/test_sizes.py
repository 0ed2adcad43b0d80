"""Canvases that a model's denoiser cannot work at are refused, and not chosen for a photograph."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffedit import DiffEditPipeline, InvalidRequest
from diffedit.preprocessor import canvas_size
from engine.checkpoint import Checkpoint
from engine.models.stable_diffusion_3 import StableDiffusion3
from tests.shared import Folders


@pytest.fixture
def sd3(folders: Folders) -> Path:
    return folders("tiny-sd3-no-t5")


def test_a_size_beyond_the_table_of_positions_is_refused(sd3: Path) -> None:
    """It was a stack trace of diffusers in the first call of the denoiser."""
    longest = Checkpoint.open(sd3).family.max_side
    assert longest is not None
    Checkpoint.open(sd3).check_size((longest, 64))
    with pytest.raises(InvalidRequest, match=f"its positions end at {longest} pixels"):
        DiffEditPipeline.from_pretrained(sd3, size=(64, 2 * longest))


def test_a_panorama_stays_within_the_table() -> None:
    """SD 3 medium: 192 patches of 16 pixels."""
    transformer = {"sample_size": 128, "patch_size": 2, "pos_embed_max_size": 192}
    vae = {"block_out_channels": [1] * 4}
    family = StableDiffusion3({"transformer": transformer, "vae": vae})
    for photo in ((100, 3000), (3000, 40), (10, 9000)):
        canvas = canvas_size(family, photo, None)
        assert max(canvas) <= family.max_side == 3072
