"""Single files in the published widths, which some converters require."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from demo import random_checkpoint
from engine.checkpoint import Checkpoint
from engine.derived.additions import Additions
from engine.hub import find_checkpoint
from engine.weights_check import check_weights
from tests.single_files import single_file, weights

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def check_equal(checkpoint: Checkpoint, folder: Path) -> None:
    """Every weight, to the bit."""
    check_weights(checkpoint)
    for part in checkpoint.family.parts:
        ours, theirs = (
            {n.removeprefix("text_model."): t for n, t in weights(f, part.name).items()}
            for f in (checkpoint.folder, folder)
        )
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs), part.name


def made(tmp_path: Path, name: str, configs: dict[str, Any], dtype: str) -> Path:
    kinds = random_checkpoint.KINDS
    kinds[name] = configs
    try:
        return random_checkpoint.make(tmp_path / "model", name, dtype=dtype)
    finally:
        del kinds[name]


def test_a_flux_transformer_with_its_base(tmp_path: Path) -> None:
    """Of the published width, which diffusers' converter has written into it, with one block of
    each kind. The base is the other FLUX.1: its schedule is not used."""
    tiny = random_checkpoint.KINDS["tiny-flux"]
    wide = {"attention_head_dim": 128, "num_attention_heads": 24, "axes_dims_rope": (16, 56, 56)}
    configs = {**tiny, "transformer": {**tiny["transformer"], **wide}}
    folder = made(tmp_path, "wide-flux", configs, "bf16")
    file = single_file(folder, tmp_path / "flux.safetensors", parts=("transformer",))
    checkpoint = find_checkpoint(file, additions=Additions(base=folder))
    check_equal(checkpoint, folder)
    assert (checkpoint.folder / "text_encoder_2").is_symlink()
    schnell = random_checkpoint.make(tmp_path / "schnell", "tiny-schnell")
    other = find_checkpoint(file, additions=Additions(base=schnell))
    assert other.scheduler_config["use_dynamic_shifting"] is True
    assert other.family.embeds_guidance


def test_stable_diffusion_1_alone(tmp_path: Path) -> None:
    """The published size without a base: configs and tokenizer are those that are shipped."""
    folder = random_checkpoint.make(tmp_path / "model", "sd15", dtype="fp16")
    file = single_file(folder, tmp_path / "sd15.safetensors")
    checkpoint = find_checkpoint(file)
    check_equal(checkpoint, folder)
    assert checkpoint.family.native_size == 512
    from diffedit.conditioning.conditioner import Conditioner

    assert Conditioner(checkpoint).encode("a cat")[0][:4] == (49406, 320, 2368, 49407)
