"""Unusable checkpoints of SDXL, SD 3 and FLUX.1 give an error before a weight is read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.checkpoint import Checkpoint
from engine.errors import CheckpointError
from engine.hub import find_checkpoint
from tests.shared import Folders

DDIM = {"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear"}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
CASES: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "SDXL with a flow schedule": ("tiny-sdxl", "scheduler", FLOW, "flow matching"),
    "SDXL without size": ("tiny-sdxl", "unet", {"addition_embed_type": None}, "picture's size"),
    "SDXL inpainting": ("tiny-sdxl", "unet", {"in_channels": 9}, "an inpainting model"),
    "SDXL of another encoder": ("tiny-sdxl", "text_encoder_2", {"hidden_size": 16}, "48"),
    "SDXL guided by nothing": ("tiny-sdxl", "unet", {"time_cond_proj_dim": 2}, "guidance scale"),
    "SD 3 with a diffusion schedule": ("tiny-sd3", "scheduler", DDIM, "DDIMScheduler"),
    "SD 3 of other sigmas": ("tiny-sd3", "scheduler", {"use_beta_sigmas": True}, "use_beta_sigmas"),
    "SD 3 of another T5": ("tiny-sd3", "text_encoder_3", {"d_model": 64}, "joint_attention_dim"),
    "SD 3 with another VAE": ("tiny-sd3", "vae", {"latent_channels": 4}, "in_channels is 16"),
    "FLUX Fill": ("tiny-flux", "transformer", {"in_channels": 384}, "FLUX.1 Fill, an inpainting"),
    "FLUX Depth": ("tiny-flux", "transformer", {"in_channels": 128}, "Depth, Canny or another"),
    "FLUX of odd inputs": ("tiny-flux", "transformer", {"in_channels": 96}, "in_channels is 96"),
    "SDXL InstructPix2Pix": ("tiny-sdxl", "unet", {"in_channels": 8}, "InstructPix2Pix"),
    "FLUX of another CLIP": ("tiny-flux", "text_encoder", {"hidden_size": 48}, "pooled_projection"),
    "FLUX without a shift": ("tiny-flux", "scheduler", {"shift": 0}, "above 0"),
    "FLUX quantized": (
        "tiny-flux",
        "transformer",
        {"quantization_config": {"quant_method": "bitsandbytes"}},
        "quantized",
    ),
    "FLUX of another T5's class": (
        "tiny-flux",
        "text_encoder_2",
        {"architectures": ["UMT5EncoderModel"]},
        "UMT5EncoderModel",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_does_not_fit_is_named(case: str, folders: Folders, tmp_path: Path) -> None:
    kind, part, changes, words = CASES[case]
    folder = tmp_path / "model"
    shutil.copytree(folders(kind), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    config = json.loads((folder / part / name).read_text())
    (folder / part / name).write_text(json.dumps({**config, **changes}))
    with pytest.raises(CheckpointError, match=words) as caught:
        Checkpoint.open(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "part", "words"),
    [
        ("tiny-sdxl", "tokenizer_2", "contains no tokenizer"),
        ("tiny-flux", "tokenizer_2", "contains no tokenizer"),
        ("tiny-sd3", "text_encoder_2", "text_encoder_2 is missing"),
        ("tiny-sd3", "transformer", "transformer is missing"),
    ],
)
def test_a_missing_part_is_named(
    kind: str, part: str, words: str, folders: Folders, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(folders(kind), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    shutil.rmtree(folder / part)
    with pytest.raises(CheckpointError, match=words):
        Checkpoint.open(folder)


def test_an_unknown_pipeline_lists_what_is_supported(folders: Folders, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(folders("tiny-flux"), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"_class_name": "QwenImagePipeline", "text_encoder": ["transformers", "Qwen2_5_VL"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="supported are Stable Diffusion"):
        Checkpoint.open(folder)


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("tiny-flux", "FluxKontextPipeline", "the photograph as a second input"),
        ("tiny-flux", "FluxKontextInpaintPipeline", "the photograph as a second input"),
        ("tiny", "RectifiedFlowPipeline", "retrained for rectified flow"),
    ],
)
def test_a_model_that_only_its_pipeline_tells(
    kind: str, name: str, words: str, folders: Folders, tmp_path: Path
) -> None:
    """Their parts have the classes and sizes of FLUX.1 dev and of Stable Diffusion 1.5."""
    folder = tmp_path / "model"
    shutil.copytree(folders(kind), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": name}))
    with pytest.raises(CheckpointError, match=f"{name}.*{words}"):
        Checkpoint.open(folder)


@pytest.mark.parametrize(("name", "warns"), [("flux1-Kontext-dev", True), ("flux1-dev", False)])
def test_a_model_that_only_its_name_tells(
    name: str,
    warns: bool,
    folders: Folders,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A single file of Kontext, or a folder that another program saved, has nothing else."""
    folder = tmp_path / name
    folder.symlink_to(folders("tiny-flux"))
    find_checkpoint(folder)
    assert ("of a Kontext model" in caplog.text) == warns


@pytest.mark.parametrize(
    ("pipeline", "part", "title"),
    [
        ("PixArtSigmaPipeline", "unet", "PixArt"),
        ("SanaPipeline", "unet", "Sana"),
        ("ChromaPipeline", "unet", "Chroma"),
        ("FluxPriorReduxPipeline", "transformer", "FLUX.1 Redux"),
    ],
)
def test_another_pipeline_is_named_and_not_only_what_it_lacks(
    pipeline: str, part: str, title: str, tmp_path: Path
) -> None:
    """Its owner would look for a missing file."""
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(tmp_path)
    assert f"has a {pipeline} ({title}) without a {part}" in str(caught.value)
    assert "supported are" in str(caught.value)
