"""The shipped few-step LoRA: it belongs to the shipped model, and edits in five rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.configuration import Configuration
from benchmarks.quality.cases import DEV, case
from benchmarks.quality.settings import Setting
from benchmarks.quality.work import measure
from demo import few_step_model
from demo.training import data, distillation
from demo.training.distillation import WEIGHTS, card
from demo.training.export import RUNS, digest
from diffedit import DiffEditPipeline

ROOT = Path(__file__).resolve().parents[2]
MODEL, FOLDER = ROOT / "demo" / "model", ROOT / "demo" / "few-steps"
RUN = json.loads((FOLDER / RUNS).read_text())


def test_it_was_distilled_from_the_shipped_model() -> None:
    assert RUN["model"] == digest(MODEL)
    assert (FOLDER / "README.md").read_text() == card(RUN)
    assert (FOLDER / WEIGHTS).stat().st_size < 6_000_000


def test_no_scene_for_choosing_or_measuring_was_used() -> None:
    assert distillation.SCENES <= DEV
    assert max(data.HELD_OUT) < 1_000_000


def edit(pipe: DiffEditPipeline, seed: int) -> NDArray[np.float32]:
    one = case(seed)
    texts = one.edit.target, one.edit.source
    result = pipe(one.image, *texts, preset="instant", seed=seed)
    assert result.parameters["step_scale"] == 1
    assert [notice.code for notice in result.warnings] == []
    assert result.stats.rows["unet"] == 5
    return result.latents


def test_the_lora_and_the_fused_model_edit_alike(tmp_path: Path) -> None:
    few_step_model.write_few_step_model(tmp_path / "fused", MODEL, FOLDER)
    lora = [FOLDER / WEIGHTS]
    with DiffEditPipeline.from_pretrained(MODEL, dtype="fp32", lora=lora, scheduler="lcm") as pipe:
        added = edit(pipe, DEV)
    with DiffEditPipeline.from_pretrained(tmp_path / "fused", dtype="fp32") as pipe:
        fused = edit(pipe, DEV)
    assert np.abs(added - fused).mean() < 0.01  # the fused weights are stored in fp16


@pytest.mark.slow
def test_it_succeeds_more_often_than_the_model_alone(tmp_path: Path) -> None:
    """On scenes for choosing settings, with the published factor."""
    few_step_model.write_few_step_model(tmp_path / "fused", MODEL, FOLDER)
    options = {"preset": "instant", "step_scale": 1.0, "mask_thresholding_ratio": 4.0}
    setting, seeds, counts = Setting("instant", options=options), range(DEV, DEV + 40), []
    for model in (MODEL, tmp_path / "fused"):
        found = measure(
            model, Configuration(), [setting], seeds, root=tmp_path, workers=1, resume=False
        )
        counts.append(int(found["instant"]["success"].sum()))
    plain, distilled = counts
    assert distilled >= plain + 3, counts
