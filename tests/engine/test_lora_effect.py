"""A LoRA that changes nothing is used, with a warning that says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from diffedit import DiffEditPipeline
from engine.checkpoint import Checkpoint
from engine.lora.effect import warn_without_effect
from engine.lora.file import Lora
from tests.engine.lora_files import ATTENTION, draw, kohya, pair, saved

SIDES = {"a": (64, 2), "b": (2, 64)}
LAYER = f"{ATTENTION}.to_q"
NAME = kohya(LAYER)


def loha(zero: str = "") -> dict[str, Tensor]:
    shapes = {
        "hada_w1_a": (64, 2),
        "hada_w1_b": (2, 64),
        "hada_w2_a": (64, 2),
        "hada_w2_b": (2, 64),
    }
    return {f"{NAME}.{k}": draw(*s) * (k != zero) for k, s in shapes.items()}


def lokr(zero: str = "") -> dict[str, Tensor]:
    shapes = {"lokr_w1": (8, 8), "lokr_w2_a": (8, 2), "lokr_w2_b": (2, 8)}
    return {f"{NAME}.{k}": draw(*s) * (k != zero) for k, s in shapes.items()}


def zero_up() -> dict[str, Tensor]:
    """As trainers begin."""
    return pair(LAYER) | {f"{NAME}.lora_up.weight": torch.zeros(64, 2)}


CASES: dict[str, tuple[dict[str, Tensor], tuple[float, ...], str | None]] = {
    "untrained": (zero_up(), (1.0,), "all of its changes are 0"),
    "alpha 0": (pair(LAYER, alpha=0.0), (1.0,), "all of its changes are 0"),
    "scale 0": (pair(LAYER), (0.0,), "its scale is 0"),
    "scales that cancel": (pair(LAYER), (0.5, -0.5), "its scales add up to 0"),
    "LoHa": (loha("hada_w2_b"), (1.0,), "all of its changes are 0"),
    "LoKr": (lokr("lokr_w2_a"), (1.0,), "all of its changes are 0"),
    "full difference": ({f"{NAME}.diff": torch.zeros(64, 64)}, (1.0,), "all of its changes"),
    "trained": (pair(LAYER), (1.0,), None),
    "trained in its last layer": (
        zero_up() | pair(f"{ATTENTION}.to_v", alpha=1.0),
        (1.0,),
        None,
    ),
    "trained LoHa": (loha(), (1.0,), None),
    "trained LoKr": (lokr(), (1.0,), None),
    "scales that add up": (pair(LAYER), (0.5, 0.5), None),
    "DoRA sets norms": (zero_up() | {f"{NAME}.dora_scale": torch.ones(64, 1)}, (1.0,), None),
    "tiny numbers": (
        zero_up() | {f"{NAME}.lora_up.weight": torch.full((64, 2), 1e-7)},
        (1.0,),
        None,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_no_effect_is_said(
    case: str, tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state, scales, words = CASES[case]
    path = saved(tmp_path / "style.safetensors", state)
    warn_without_effect([Lora.open(path, scale) for scale in scales], Checkpoint.open(tiny))
    assert len(caplog.records) == (words is not None)
    if words is not None:
        assert f"style.safetensors changes nothing: {words}" in caplog.text


def test_a_pipeline_says_it(tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = saved(tmp_path / "style.safetensors", zero_up())
    with DiffEditPipeline.from_pretrained(tiny, device="cpu", lora=[path]):
        assert "style.safetensors changes nothing" in caplog.text
