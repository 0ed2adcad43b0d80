"""Configs with impossible numbers are refused in a sentence before a weight is read.

A number that is impossible by itself is found in the JSON files. Numbers that do not fit each other
are found by running the networks without weights.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from engine.checkpoint import Checkpoint
from engine.errors import CheckpointError
from engine.weights_check import check_weights
from tests.engine.checkpoints import Change, config, without
from tests.shared import Folders

KINDS = ("tiny", "tiny-sdxl", "tiny-sd3", "tiny-flux")
Case = tuple[str, Change, str]


def cut(file: Path) -> None:
    """Keep the first half, as of a download that broke off."""
    text = file.read_text(encoding="utf-8")
    file.write_text(text[: len(text) // 2], encoding="utf-8")


IMPOSSIBLE: dict[str, Case] = {
    "negative epsilon": ("tiny", config("unet", norm_eps=-1e-5), "norm_eps is -1e-05"),
    "huge epsilon": ("tiny", config("unet", norm_eps=1e5), "norm_eps is 100000.0"),
    "epsilon of zero": ("tiny", config("text_encoder", layer_norm_eps=0), "layer_norm_eps is 0"),
    "T5's epsilon": (
        "tiny-sd3",
        config("text_encoder_3", layer_norm_epsilon=-1.0),
        "text_encoder_3.*layer_norm_epsilon is -1.0",
    ),
    "zero heads": ("tiny", config("unet", attention_head_dim=0), "attention_head_dim is 0"),
    "zero CLIP heads": ("tiny", config("text_encoder", num_attention_heads=0), "heads is 0"),
    "zero T5 heads": ("tiny-flux", config("text_encoder_2", num_heads=0), "num_heads is 0"),
    "no words": ("tiny-sdxl", config("text_encoder_2", vocab_size=0), "vocab_size is 0"),
    "no layers": ("tiny", config("text_encoder", num_hidden_layers=0), "num_hidden_layers is 0"),
    "negative width": ("tiny", config("unet", block_out_channels=[32, -64]), "is -64"),
    "width of zero": ("tiny-flux", config("vae", block_out_channels=[16, 0, 32]), "is 0"),
    "zero groups": ("tiny-sdxl", config("vae", norm_num_groups=0), "norm_num_groups is 0"),
    "no levels": ("tiny-sdxl", without("vae", "block_out_channels"), "block_out_channels is miss"),
    "thirty levels": ("tiny-sd3", config("vae", block_out_channels=[8] * 30), "30 levels"),
    "half a layer": ("tiny", config("unet", layers_per_block=0.5), "layers_per_block is 0.5"),
    "huge sample": ("tiny", config("unet", sample_size=100_000), "sample_size is 100000"),
    "negative scale": ("tiny-sdxl", config("vae", scaling_factor=-1), "scaling_factor is -1"),
    "infinite scale": ("tiny-flux", config("vae", scaling_factor=float("inf")), "is inf"),
    "normalized latents": ("tiny-sdxl", config("vae", latents_mean=[0.0] * 4), "Playground"),
    "grey FLUX": ("tiny-flux", config("vae", in_channels=1), "3 channels"),
    "an IP-Adapter": ("tiny-sdxl", config("unet", encoder_hid_dim_type="ip_image_proj"), "IP-Ad"),
    "no noise": ("tiny", config("scheduler", beta_start=1e-12, beta_end=1e-12), "add no noise"),
    "masked padding": ("tiny", config("text_encoder", use_attention_mask=True), "padding"),
    "a cut merges.txt": (
        "tiny-sdxl",
        lambda folder: cut(folder / "tokenizer_2" / "merges.txt"),
        "merges.txt has .* merges, but the",
    ),
    "negative offset": ("tiny", config("scheduler", steps_offset=-1), "steps_offset is -1"),
    "offset at the end": ("tiny", config("scheduler", steps_offset=1000), "steps_offset is 1000"),
    "a billion timesteps": ("tiny", config("scheduler", num_train_timesteps=10**9), "100000"),
    "LCM without steps": (
        "tiny",
        config("scheduler", _class_name="LCMScheduler", original_inference_steps=0),
        "original_inference_steps is 0",
    ),
    "LCM with too many": (
        "tiny",
        config("scheduler", _class_name="LCMScheduler", original_inference_steps=5000),
        "original_inference_steps is above",
    ),
    "equal lengths": ("tiny-flux", config("scheduler", max_image_seq_len=256), "not below"),
    "length as text": ("tiny-flux", config("scheduler", base_image_seq_len="256"), "is '256'"),
    "huge shift": ("tiny-sd3", config("scheduler", shift=1e30), "shift is 1e\\+30"),
    "terminal shift": ("tiny-flux", config("scheduler", shift_terminal=1.0), "shift_terminal is 1"),
}

UNFITTING: dict[str, Case] = {
    "heads": ("tiny", config("text_encoder", num_attention_heads=5), "text_encoder/config.json"),
    "groups": ("tiny", config("unet", norm_num_groups=7), "unet/config.json"),
    "VAE groups": ("tiny-sdxl", config("vae", norm_num_groups=7), "vae/config.json"),
    "fewer up blocks": (
        "tiny",
        config("unet", up_block_types=["CrossAttnUpBlock2D"]),
        "unet/config.json",
    ),
    "more widths": ("tiny-sdxl", config("unet", block_out_channels=[32, 64, 64]), "unet/config"),
    "swapped blocks": (
        "tiny",
        config("unet", up_block_types=["CrossAttnUpBlock2D", "NoSuchBlock"]),
        "unet/config.json",
    ),
    "heads a level": ("tiny-sdxl", config("unet", attention_head_dim=[2, 4, 8]), "unet/config"),
    "an embedding of odd width": (
        "tiny-sd3",
        config("transformer", caption_projection_dim=33),
        "transformer/config.json",
    ),
    "a small position table": (
        "tiny-sd3",
        config("transformer", pos_embed_max_size=2),
        "transformer/config.json",
    ),
    "rotary axes": (
        "tiny-flux",
        config("transformer", axes_dims_rope=[4, 6, 8]),
        "transformer/config.json",
    ),
    "patches": ("tiny-flux", config("transformer", out_channels=32), "transformer/config.json"),
    "one channel more": ("tiny-sd3", config("transformer", out_channels=8), "instead of"),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_an_impossible_number_is_named(case: str, folders: Folders, tmp_path: Path) -> None:
    kind, change, words = IMPOSSIBLE[case]
    folder = tmp_path / "model"
    shutil.copytree(folders(kind), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    change(folder)
    with pytest.raises(CheckpointError, match=words) as caught:
        Checkpoint.open(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("case", UNFITTING)
def test_numbers_that_do_not_fit_each_other_are_found(
    case: str, folders: Folders, tmp_path: Path
) -> None:
    """The weights are those of the config before the change, and are not what is named."""
    kind, change, words = UNFITTING[case]
    folder = tmp_path / "model"
    shutil.copytree(folders(kind), folder)
    change(folder)
    with pytest.raises(CheckpointError, match=words) as caught:
        check_weights(Checkpoint.open(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_right_config_passes(kind: str, folders: Folders) -> None:
    check_weights(Checkpoint.open(folders(kind)))
