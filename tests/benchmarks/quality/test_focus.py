"""The sharpness of large photographs with and without focus."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from benchmarks.configuration import Configuration, open_pipeline
from benchmarks.quality import focus, settings
from benchmarks.quality.measures import Pixels
from benchmarks.quality.summary import Estimate
from benchmarks.quality.targets import focus_targets
from demo import scenes

SMALL = (300, 400)
SEED = focus.seeds(1)[0]
OPTIONS: dict[str, Any] = {"preset": "paper", "num_inference_steps": 2}


def blurred(picture: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(3)))


def test_the_scenes_have_one_object_and_are_for_measuring() -> None:
    chosen = focus.seeds(5)
    assert len(set(chosen)) == 5 and min(chosen) >= scenes.EVALUATION
    assert all(len(scenes.scene(seed).objects) == 1 for seed in chosen)


def test_a_photograph_is_a_scene_with_continued_borders() -> None:
    one, again = (focus.photograph(SEED, 64, SMALL) for _ in range(2))
    assert one.image.shape == (*SMALL, 3) and (one.image == again.image).all()
    left, top, right, bottom = one.square
    assert (right - left, bottom - top) == (150, 150)  # half of the height
    assert (one.image[:, : left + 1] == one.image[:, :1]).all()
    assert (one.image[: top + 1] == one.image[:1]).all()
    changed = (one.image != one.ideal).any(-1)
    mask = np.asarray(one.mask)
    assert set(np.unique(mask)) == {0, 255}
    square = one.mask.crop(one.square).resize(one.case.region.shape[::-1])
    assert (np.asarray(square) > 0)[one.case.region].all()  # with a margin
    assert changed[mask > 0].mean() > 0.5
    assert not changed[:top].any() and not changed[:, :left].any()


def test_a_soft_edit_has_less_energy_than_the_perfect_one() -> None:
    photo = focus.photograph(SEED, 64, SMALL)
    shown = np.asarray(photo.mask) > 0
    perfect = focus.energies(photo.ideal, photo.ideal, shown)
    assert perfect["energy"] == perfect["energy_ideal"]
    soft = np.where(shown[..., None], blurred(photo.ideal), photo.ideal)
    found = focus.energies(soft, photo.ideal, shown)
    assert found["energy"] < 0.7 * found["energy_ideal"]
    assert found["energy_ideal"] == perfect["energy_ideal"]


def test_the_surroundings_are_those_of_the_mask() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (*SMALL, 3), np.uint8)
    noise[:, 300:] = 0  # far away
    mask = np.zeros(SMALL, bool)
    mask[100:150, 120:180] = True
    found = focus.energies(noise, noise, mask)
    assert found["energy"] / found["energy_around"] == pytest.approx(1, abs=0.1)
    smooth = np.where(mask[..., None], noise // 2, noise)  # half the differences
    found = focus.energies(smooth, noise, mask)
    assert found["energy"] / found["energy_around"] == pytest.approx(0.25, abs=0.05)


def test_every_photograph_is_edited_without_and_with_a_window(tiny: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "focus.png"
    with open_pipeline(tiny, Configuration(dtype="fp32")) as pipe:
        found = focus.measure(pipe, OPTIONS, focus.seeds(2), sheet, SMALL)
    assert list(found) == list(focus.FOCUS)
    for columns in found.values():
        assert (columns["rows"] == 2 + 4).all() and (columns["seconds"] > 0).all()
    whole, window = (focus.summarise(columns) for columns in found.values())
    assert set(whole) == set(window) == set(focus.FIGURES)
    assert whole["sharpness"].mean != window["sharpness"].mean  # another picture
    with Image.open(sheet) as page:
        assert page.size == (4 * focus.TILE, 2 * focus.TILE)


def test_figures_are_ratios_of_means() -> None:
    columns = {
        "energy": np.array([1.0, 3.0]),
        "energy_ideal": np.array([2.0, 2.0]),
        "energy_around": np.array([0.1, 7.9]),
        **{name: np.array([1.0, 0.0]) for name in ("success", "rows", "seconds")},
    }
    found = focus.summarise(columns)
    assert (found["sharpness"].mean, found["contrast"].mean) == (1, 0.5)
    assert found["success"].mean == 0.5


def test_the_target_is_checked() -> None:
    row = {name: Estimate(0.9, 0.8, 1.0) for name in ("contrast", "sharpness")}
    assert [c.met for c in focus_targets(dict.fromkeys(focus.FOCUS, row))] == [True, True]
    row["contrast"] = Estimate(0.7, 0.6, 0.8)
    assert [c.met for c in focus_targets(dict.fromkeys(focus.FOCUS, row))] == [False, True]


def test_the_part_edits_with_the_default_preset() -> None:
    options = settings.preset(settings.DEMO, "balanced")
    assert options["preset"] == "balanced" and "num_inference_steps" not in options
