"""A guidance interval that contains no step gives a warning."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from diffedit import DiffEditPipeline


@pytest.fixture(scope="module")
def pipeline(tiny: Path) -> Iterator[DiffEditPipeline]:
    with DiffEditPipeline.from_pretrained(tiny, device="cpu", dtype="fp32") as pipeline:
        yield pipeline


@pytest.mark.parametrize(
    ("interval", "options", "words"),
    [
        ((0, 1), {}, None),
        ((0.7, 1), {}, None),  # the second of two steps is at 1
        ((0, 0.5), {}, None),
        ((0, 0.4), {}, "has none of the steps up to strength=1"),
        ((0.6, 0.9), {}, "has none of the steps up to strength=1"),
        ((0.6, 1), {"strength": 0.5}, "lies above strength=0.5"),
        ((0, 0.4), {"guidance_scale": 1}, None),
        ((0, 0.0001), {"method": "sdedit"}, "has none of the steps"),
        (None, {"preset": "balanced"}, None),
        (None, {"preset": "draft", "num_inference_steps": 1}, None),
    ],
)
def test_an_interval_without_a_step_is_said(
    interval: tuple[float, float] | None,
    options: dict[str, Any],
    words: str | None,
    pipeline: DiffEditPipeline,
    photo: Image.Image,
) -> None:
    chosen = {"num_inference_steps": 2, "strength": 1, "guidance_interval": interval, **options}
    mask = None if chosen.get("method") == "sdedit" else Image.new("L", photo.size, 255)
    result = pipeline(photo, "a blue ball", "a red ball", mask_image=mask, **chosen)
    found = [warning for warning in result.warnings if "guidance_interval" in warning]
    assert len(found) == (words is not None), result.warnings
    assert words is None or (words in found[0] and "no step is guided" in found[0])
