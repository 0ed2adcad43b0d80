"""The shipped model: it loads, draws, and edits scenes outside of training and evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from benchmarks.configuration import Configuration
from benchmarks.quality.cases import DEV
from benchmarks.quality.settings import Setting
from benchmarks.quality.work import Columns, measure
from demo import gallery
from demo.training.export import model_card, read_runs
from demo.training.networks import SIZE_LIMIT
from diffedit import DiffEditPipeline
from engine.checkpoint import Checkpoint

MODEL = Path(__file__).resolve().parents[2] / "demo" / "model"


def test_it_is_small_whole_and_says_what_it_is() -> None:
    files = [f for f in MODEL.rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) <= SIZE_LIMIT
    assert {f.suffix for f in files} <= {".json", ".safetensors", ".txt", ".md", ".webp"}
    checkpoint = Checkpoint.open(MODEL)
    assert (checkpoint.family.native_size, checkpoint.family.factor) == (128, 4)
    runs = read_runs(MODEL)
    assert runs and all(run["size"] == 128 for run in runs)
    text = (MODEL / "README.md").read_text()
    assert "Apache-2.0" in text and runs[-1]["hardware"] in text


def test_its_card_states_the_figures_of_its_training() -> None:
    parameters = {}
    for part in ("unet", "vae", "text_encoder"):
        (file,) = (MODEL / part).glob("*.safetensors")
        parameters[part] = sum(tensor.numel() for tensor in load_file(file).values())
    assert (MODEL / "README.md").read_text() == model_card(read_runs(MODEL), parameters)


def test_no_reserved_scene_was_trained_on() -> None:
    """The record of each run has the number of its training seeds, which begin at 0."""
    assert all(run["scenes"] <= DEV for run in read_runs(MODEL))


@pytest.mark.slow
def test_diffusers_loads_it_and_draws() -> None:
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    pipe: Any = StableDiffusionPipeline.from_pretrained(MODEL, safety_checker=None)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    captions = ["a blue ball in a studio"] * 4 + ["a yellow star on the grass"] * 4
    pictures = pipe(
        captions,
        num_inference_steps=20,
        guidance_scale=4.0,
        generator=[torch.Generator().manual_seed(i % 4) for i in range(8)],
        output_type="np",
    ).images
    assert pictures.shape == (8, 128, 128, 3)
    bluer = pictures[..., 2] - pictures[..., 0]
    blue, yellow = ((one > 0.3).sum((1, 2)) for one in (bluer[:4], -bluer[4:]))
    assert (blue > 300).sum() >= 3  # now and then it leaves the object out
    assert (yellow > 300).sum() >= 3


@pytest.fixture(scope="module")
def edits(tmp_path_factory: pytest.TempPathFactory) -> Columns:
    """Twelve edits in ten steps."""
    options = {"num_inference_steps": 10, "guidance_scale": 4.0}
    return measure(
        MODEL,
        Configuration(),
        [Setting("ours", options=options)],
        range(DEV, DEV + 12),
        root=tmp_path_factory.mktemp("edits"),
        workers=1,
        resume=False,
    )["ours"]


@pytest.mark.slow
def test_it_finds_what_to_edit_and_edits_it(edits: Columns) -> None:
    """Bounds are wider than the figures of `make quality`, since processors round differently."""
    assert edits["recall"].mean() > 0.8
    assert edits["iou"].mean() > 0.4
    assert edits["success"].mean() >= 0.5
    assert np.median(edits["equal"]) > 0.6


@pytest.mark.slow
def test_nothing_outside_the_mask_is_touched(edits: Columns) -> None:
    assert not edits["changed_outside_mask"].any()


def test_the_judge_that_ships_was_measured_on_reserved_scenes() -> None:
    facts = json.loads((MODEL.parent / "judge" / "judge.json").read_text())
    assert facts["evaluation"]["both"] >= 0.97
    assert facts["evaluation"]["half_done"] >= 0.9


@pytest.mark.slow
def test_the_gallery_shows_edits_and_its_inputs_are_lines_for_batch(tmp_path: Path) -> None:
    gallery.write_inputs(tmp_path)
    lines = [json.loads(row) for row in (tmp_path / "edits.jsonl").read_text().splitlines()]
    assert len(lines) == len(gallery.SHOWN)
    assert {"image", "out", "prompt", "source_prompt"} <= set(lines[0])
    assert (tmp_path / "6.png").exists()
    with DiffEditPipeline.from_pretrained(MODEL, backend="torch") as pipe:
        page = gallery.gallery(pipe, gallery.picks(gallery.SHOWN[:1]))
    assert page.width > 1000 and page.height > 384
