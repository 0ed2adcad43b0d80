"""`mask --refine`: another mask from a stored heatmap."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diffedit.presets import DEFAULT_PRESET, PRESETS, PresetName
from tests.cli.conftest import FAST, PROMPTS, Cli, check_refused, snapshot
from tests.cli.test_edit import pixels

HEAT = ("--heatmap-out", "h.npy")
NONE = ("--mask-cleaning", "none")
OTHER = ("--mask-threshold", "0.3", "--mask-dilation", "1", "--mask-cleaning", "clean")


def test_a_refined_mask_is_the_one_that_a_search_finds(
    work: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("mask", "in.png", *PROMPTS, *FAST, *HEAT, "-o", "m.png").code == 0
    assert cli("mask", "in.png", *PROMPTS, *FAST, *OTHER, "-o", "m2.png").code == 0
    monkeypatch.setattr("diffedit.cli.mask.open_pipeline", None)  # no network is loaded
    same = cli("mask", "in.png", "--refine", "h.npy", *NONE, "-o", "r.png", "--json")
    assert same.code == 0, same.err
    assert (pixels("r.png") == pixels("m.png")).all()
    assert same.line["mask_share"] == pytest.approx((pixels("m.png") > 0).mean(), abs=1e-5)
    other = cli("mask", "in.png", "--refine", "h.npy", *OTHER, "-o", "r2.png", "-q")
    assert other.code == 0, other.err
    assert (pixels("r2.png") == pixels("m2.png")).all()
    assert not (pixels("r2.png") == pixels("r.png")).all()


@pytest.mark.parametrize("preset", ["paper", "balanced"])
def test_the_preset_decides_the_cleaning(preset: PresetName, work: Path, cli: Cli) -> None:
    found = cli("mask", "in.png", *PROMPTS, *FAST, "--preset", preset, *HEAT, "-o", "m.png")
    assert found.code == 0, found.err
    chosen = () if preset == DEFAULT_PRESET else ("--preset", preset)
    again = cli("mask", "in.png", "--refine", "h.npy", *chosen, "-o", "r.png", "--json")
    assert again.code == 0, again.err
    assert again.line["parameters"]["mask_cleaning"] == PRESETS[preset].options["mask_cleaning"]
    assert (pixels("r.png") == pixels("m.png")).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "No prompt is given; add --prompt, or --refine"),
        (["--refine", "h.npy", "-p", "a ball"], "prompt is 'a ball', but --refine"),
        (["--refine", "h.npy", "--maps", "3"], "num_maps_per_mask is 3, but --refine"),
        (["--refine", "h.npy", "--heatmap-out", "g.npy"], "--heatmap-out would write"),
        (["--refine", "h.npy", "--mask-threshold", "1"], "mask_threshold is 1"),
        (["--refine", "h.npy", "--mask-cleaning", "cleen"], "did you mean 'clean'"),
        (["--refine", "nowhere.npy"], "nowhere.npy cannot be read (No such file"),
        (["--refine", "in.png"], "in.png is not a heatmap"),
        (["--refine", "wide.npy"], "wide.npy is not a heatmap"),
        (["--refine", "nan.npy"], "nan.npy has values outside of 0 to 1"),
    ],
)
def test_bad_options(arguments: list[str], words: str, work: Path, cli: Cli) -> None:
    np.save("h.npy", np.zeros((16, 16), np.float32))
    np.save("wide.npy", np.zeros((16, 16, 3), np.float32))
    np.save("nan.npy", np.full((16, 16), np.nan, np.float32))
    before = snapshot(work)
    check_refused(cli("mask", "in.png", *arguments), 2, words)
    assert snapshot(work) == before
