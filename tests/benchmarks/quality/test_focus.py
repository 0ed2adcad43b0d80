"""The sharpness of large photographs with and without focus."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from benchmarks.configuration import Configuration, open_pipeline
from benchmarks.quality import focus, settings
from benchmarks.quality.cases import DEV
from benchmarks.quality.measures import Pixels
from benchmarks.quality.summary import Estimate
from benchmarks.quality.targets import focus_targets

SMALL = (300, 400)
OPTIONS: dict[str, Any] = {
    "preset": "paper",
    "num_inference_steps": 2,
    "num_maps_per_mask": 2,
    "mask_thresholding_ratio": 1.0,
}


def blurred(picture: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(3)))


def test_a_photograph_is_a_scene_with_continued_borders() -> None:
    one, again = (focus.photograph(DEV, 64, SMALL) for _ in range(2))
    assert one.image.shape == (*SMALL, 3) and (one.image == again.image).all()
    left, top, right, bottom = one.square
    assert (right - left, bottom - top) == (225, 225)  # three quarters of the height
    assert (one.image[:, : left + 1] == one.image[:, :1]).all()
    assert (one.image[: top + 1] == one.image[:1]).all()
    changed = np.argwhere((one.image != one.ideal).any(-1))
    assert (changed >= (top, left)).all() and (changed < (bottom, right)).all()
    assert len(changed)


def test_sharpness_is_the_energy_inside_the_mask() -> None:
    photo = focus.photograph(DEV, 64, SMALL)
    shown = np.asarray(
        Image.fromarray(photo.case.region).resize((225, 225)).point(lambda v: 255 * v)
    )
    mask = np.zeros(SMALL, bool)
    left, top, right, bottom = photo.square
    mask[top:bottom, left:right] = shown > 0
    perfect = focus.sharpness(photo.ideal, photo.ideal, mask)
    assert perfect["sharpness"] == 1
    soft = np.where(mask[..., None], blurred(photo.ideal), photo.ideal)
    found = focus.sharpness(soft, photo.ideal, mask)
    assert found["sharpness"] < 0.6 and found["contrast"] < 0.8 * perfect["contrast"]
    nothing = focus.sharpness(soft, photo.ideal, np.zeros(SMALL, bool))
    assert np.isnan([nothing["sharpness"], nothing["contrast"]]).all()


def test_contrast_compares_with_the_surroundings() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (*SMALL, 3), np.uint8)
    mask = np.zeros(SMALL, bool)
    mask[100:150, 120:180] = True
    assert focus.sharpness(noise, noise, mask)["contrast"] == pytest.approx(1, abs=0.1)
    smooth = np.where(mask[..., None], noise // 2, noise)  # half the differences
    assert focus.sharpness(smooth, noise, mask)["contrast"] == pytest.approx(0.25, abs=0.05)


def test_every_photograph_is_edited_without_and_with_a_window(tiny: Path, tmp_path: Path) -> None:
    seeds, sheet = range(DEV, DEV + 2), tmp_path / "focus.png"
    with open_pipeline(tiny, Configuration(dtype="fp32")) as pipe:
        found = focus.measure(pipe, OPTIONS, seeds, sheet, SMALL)
    whole = found["balanced, without focus"]
    assert list(found) == list(focus.FOCUS)
    assert set(whole) == set(focus.FIGURES) and len(whole["sharpness"]) == 2
    assert (whole["rows"] == 4 + 2 + 4).all() and (whole["seconds"] > 0).all()
    assert not np.isnan(whole["sharpness"]).any()
    with Image.open(sheet) as page:
        assert page.size == (4 * focus.TILE, 2 * focus.TILE)


def test_the_target_is_checked() -> None:
    row = {name: Estimate(0.9, 0.8, 1.0) for name in ("contrast", "sharpness")}
    checks = focus_targets(dict.fromkeys(focus.FOCUS, row))
    assert [check.met for check in checks] == [True, True]
    row["contrast"] = Estimate(0.7, 0.6, 0.8)
    assert [check.met for check in focus_targets(dict.fromkeys(focus.FOCUS, row))] == [
        False,
        True,
    ]


def test_the_part_edits_with_the_default_preset() -> None:
    assert settings.preset(settings.DEMO, "balanced")["preset"] == "balanced"
    assert "num_inference_steps" not in settings.preset(settings.DEMO, "balanced")
