"""The last rows of `ladder`: the default preset and the paper's edit, in the same run."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks import ladder
from benchmarks.configuration import NetworkCache
from benchmarks.gpu_check import speed
from benchmarks.workload import Workload
from diffedit.presets import DEFAULT_PRESET

NAMES = [
    "preset balanced",
    "preset balanced, compiled",
    "preset balanced, the next edit of the same picture",
]


def test_the_default_preset_comes_last(tiny: Path) -> None:
    load = Workload(tiny)
    found = ladder.all_rungs(load, NetworkCache(load.checkpoint), torch.device("cpu"), None, 2)
    rungs = list(found)
    assert [rung.name for rung in rungs[15:]] == NAMES
    assert DEFAULT_PRESET in ladder.BALANCED
    assert not any(rung.reason for rung in rungs[15:])
    every = [rungs[number - 1].name for number in (*speed.EAGER, *speed.COMPILED)]
    assert [name for name in every if "balanced" in name] == NAMES


def test_its_edit_has_the_options_of_the_preset_and_of_the_workload(tiny: Path) -> None:
    used = Workload(tiny, strength=0.9, guidance=5.0, threshold=0.3).balanced(seed=7)
    assert (used.num_inference_steps, used.num_maps_per_mask, used.inversion_stride) == (20, 3, 3)
    assert (used.strength, used.guidance_scale, used.mask_threshold) == (0.9, 5.0, 0.3)
    assert (used.seed, used.mask_cleaning) == (7, "edges")
    assert Workload(tiny, steps=10).balanced().num_inference_steps == 10


def test_both_presets_run_and_are_compared(tiny: Path) -> None:
    load = Workload(tiny, steps=10, maps=4, threshold=0.2)
    result = ladder.ladder(load, rungs=(5, 16))
    paper, balanced = result.measurements
    assert paper.labels["rung"] == ladder.FP32 and balanced.labels["rung"] == ladder.BALANCED
    assert paper.extras["rows"] == 2 * 4 + 8 + 2 * 8
    assert 4 + 3 + 8 + 3 <= balanced.extras["rows"] <= 6 + 3 + 8 + 3
    assert 0 < balanced.extras["quality"]["mask_iou"] < 1
    assert balanced.repeats == 3 and balanced.low is not None and balanced.high is not None
    assert result.settings["threshold"] == 0.2


def test_an_edit_that_ends_after_its_mask_is_not_timed(tiny: Path) -> None:
    result = ladder.ladder(Workload(tiny, steps=10, maps=2, threshold=0.95), rungs=(16,))
    (missing,) = result.not_run
    assert missing.name == ladder.BALANCED and "choose a lower --threshold" in missing.reason
    assert not result.measurements
