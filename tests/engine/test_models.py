"""Model families: a checkpoint is recognised, and each network is described in one place."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.checkpoint import Checkpoint
from engine.errors import CheckpointError
from engine.models import FAMILIES, NetworkNames, read_family
from engine.models.stable_diffusion import StableDiffusion

ROOT = Path(__file__).resolve().parents[2]


def sd(**unet: Any) -> StableDiffusion:
    """Stable Diffusion 1.5's published dimensions."""
    return StableDiffusion(
        {
            "unet": {"sample_size": 64, "attention_head_dim": 8, **unet},
            "vae": {"block_out_channels": [128, 256, 512, 512], "latent_channels": 4},
            "text_encoder": {"hidden_size": 768, "max_position_embeddings": 77},
        }
    )


def test_the_numbers_of_stable_diffusion() -> None:
    family = sd()
    assert (family.factor, family.channels, family.native_size) == (8, 4, 512)
    assert [text.length for text in family.text_inputs] == [77]
    inputs, outputs = family.tensors("unet", (512, 768))
    assert [(t.name, t.shape) for t in inputs] == [
        ("latent", (4, 64, 96)),
        ("timestep", ()),
        ("embedding", (77, 768)),
    ]
    assert [(t.name, t.shape) for t in outputs] == [("prediction", (4, 64, 96))]
    assert family.attention_scores("unet", (512, 512)) == 8 * 4096 * 4096
    assert sd(attention_head_dim=[5, 10, 20, 20]).attention_scores("unet", (512, 512)) == (
        5 * 4096 * 4096
    )
    assert family.attention_scores("vae_decode", (512, 512)) == 4096 * 4096
    assert family.attention_scores("text", (512, 512)) == 0


def test_the_vae_stays_in_fp32_where_fp16_overflows() -> None:
    family = sd()
    assert family.part_precision("vae", "fp16") == "fp32"
    assert family.part_precision("vae", "bf16") == "bf16"
    assert family.part_precision("unet", "fp16") == "fp16"


@pytest.mark.parametrize("size", [(64, 64), (512, 768)])
def test_a_size_is_found_again_from_the_shape_of_its_rows(size: tuple[int, int]) -> None:
    family = sd()
    for network in family.networks:
        (first, *_), _ = family.tensors(network.name, size)
        expected = None if network.role == "text_encoder" else size
        assert family.size_of(network.name, first.shape) == expected
    with pytest.raises(ValueError, match="three axes"):
        family.size_of("unet", (4, 8))


def test_every_role_has_its_networks() -> None:
    names = NetworkNames.of(sd())
    assert names == NetworkNames(("text",), "vae_encode", "unet", "vae_decode")
    parts = {part.name for part in sd().parts}
    assert {network.part for network in sd().networks} == parts


def test_a_checkpoint_is_recognised_by_its_index(tiny: Path, tmp_path: Path) -> None:
    family = read_family(tiny)
    assert isinstance(family, StableDiffusion) and family.name == "stable-diffusion"
    other = Path(shutil.copytree(tiny, tmp_path / "other"))
    index = json.loads((other / "model_index.json").read_text())
    index["unet"] = ["diffusers", "SomethingElse"]
    (other / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(
        CheckpointError,
        match="SomethingElse, not a UNet2DConditionModel",
    ):
        read_family(other)
    del index["unet"]
    (other / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="without a unet"):
        read_family(other)


def test_specs_carry_role_and_size(tiny: Path) -> None:
    checkpoint = Checkpoint.open(tiny)
    spec = checkpoint.spec("unet", (64, 96))
    assert (spec.role, spec.size) == ("denoiser", (64, 96))
    assert checkpoint.spec("text", (64, 96)).size is None
    assert type(spec).from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_no_other_module_names_a_network() -> None:
    """A network is described by its family alone; everything else asks for it by role.

    The oracle is the exception: it calls the modules without the descriptions.
    """
    oracle = ROOT / "diffedit" / "algorithm" / "reference_models.py"
    names = {network.name for family in FAMILIES for network in family({}).networks}
    found = []
    for package in ("engine", "export", "diffedit"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if path.parent == ROOT / "engine" / "models" or path == oracle:
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and node.value in names:
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.value!r}")
    assert found == []
