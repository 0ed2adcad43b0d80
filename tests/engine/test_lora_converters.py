"""Every LoRA converter of diffusers: its names are read here, or refused with the model's name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel
from diffusers.loaders import lora_conversion_utils as theirs
from torch import Tensor

from demo import random_checkpoint
from engine.checkpoint import Checkpoint
from engine.errors import CheckpointError
from engine.lora.file import Lora
from engine.models.original_names import Piece, original_layers
from engine.models.published import published_configs
from tests.engine.lora_files import draw, saved

State = dict[str, Tensor]
READ = {
    "_maybe_map_sgm_blocks_to_diffusers",  # tests/families/test_lora_oracles.py
    "_convert_non_diffusers_lora_to_diffusers",  # the same
    "_convert_kohya_flux_lora_to_diffusers",  # the same, and below at full width
    "_convert_xlabs_flux_lora_to_diffusers",  # the same
    "_convert_fal_kontext_lora_to_diffusers",  # below
}
PARTS_OF_OTHERS = {"_convert_unet_lora_key", "_convert_text_encoder_lora_key"}
REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "_convert_bfl_flux_control_lora_to_diffusers": (
        ("double_blocks.0.img_attn.proj", "double_blocks.0.img_attn.norm.query_norm.scale"),
        "Control LoRA of FLUX.1",
    ),
    "_convert_hunyuan_video_lora_to_diffusers": (
        ("diffusion_model.double_blocks.0.img_attn_qkv",),
        "HunyuanVideo",
    ),
    "_convert_non_diffusers_lumina2_lora_to_diffusers": (
        ("diffusion_model.layers.0.attention.qkv",),
        "Lumina 2",
    ),
    "_convert_non_diffusers_z_image_lora_to_diffusers": (
        ("lora_unet_noise_refiner_0_attention_to_q",),
        "Z-Image",
    ),
    "_convert_non_diffusers_lokr_to_diffusers": (
        ("diffusion_model.layers.0.attention.to_q",),
        "Z-Image",
    ),
    "_convert_non_diffusers_ideogram4_lora_to_diffusers": (
        ("conditional_transformer.layers.3.attention.qkv",),
        "Ideogram",
    ),
    "_convert_non_diffusers_wan_lora_to_diffusers": (
        ("diffusion_model.blocks.0.self_attn.q", "diffusion_model.blocks.0.cross_attn.k_img"),
        "Wan",
    ),
    "_convert_musubi_wan_lora_to_diffusers": (("lora_unet_blocks_0_self_attn_q",), "Wan"),
    "_convert_non_diffusers_anima_lora_to_diffusers": (
        ("diffusion_model.blocks.0.self_attn.q_proj",),
        "Anima",
    ),
    "_convert_non_diffusers_hidream_lora_to_diffusers": (
        ("diffusion_model.double_stream_blocks.0.block.attn1.to_q",),
        "HiDream",
    ),
    "_convert_non_diffusers_ltxv_lora_to_diffusers": (
        ("diffusion_model.transformer_blocks.0.attn1.to_q",),
        "LTX-Video",
    ),
    "_convert_non_diffusers_ltx2_lora_to_diffusers": (
        ("diffusion_model.transformer_blocks.0.audio_attn1.to_q",),
        "LTX-Video",
    ),
    "_convert_non_diffusers_qwen_lora_to_diffusers": (
        ("lora_unet_transformer_blocks_0_img_mlp_net_2", "transformer_blocks.0.txt_mod.1"),
        "Qwen-Image",
    ),
    "_convert_non_diffusers_flux2_lora_to_diffusers": (
        ("diffusion_model.double_stream_modulation_img.lin",),
        "FLUX.2",
    ),
    "_convert_kohya_flux2_lora_to_diffusers": (
        ("lora_unet_single_stream_modulation_lin",),
        "FLUX.2",
    ),
    "_convert_non_diffusers_flux2_lokr_to_diffusers": (
        ("diffusion_model.single_stream_modulation.lin",),
        "FLUX.2",
    ),
    "_convert_lycoris_flux2_lokr_to_diffusers": (
        ("lycoris_single_transformer_blocks_0_attn_to_qkv_mlp_proj",),
        "FLUX.2",
    ),
    "_convert_non_diffusers_flux3_lora_to_diffusers": (
        ("diffusion_model.content_mode_blocks.0.q_proj",),
        "FLUX.3",
    ),
    "_convert_non_diffusers_krea2_lora_to_diffusers": (
        ("diffusion_model.blocks.0.attn.wq",),
        "Krea 2",
    ),
    "_convert_non_diffusers_ace_step_lora_to_diffusers": (
        ("base_model.model.layers.0.cross_attn.q_proj",),
        "ACE-Step",
    ),
    "_convert_non_diffusers_minimax_h3_lora_to_diffusers": (
        ("diffusion_model.blocks.0.attn.qkv_proj",),
        "MiniMax-H3",
    ),
}
"""Converter -> layers as its files name them, and what the message says."""


def test_every_converter_of_diffusers_is_decided_on() -> None:
    found = {
        name
        for name, function in inspect.getmembers(theirs, inspect.isfunction)
        if function.__module__ == theirs.__name__
        and name.startswith(("_convert", "_maybe_map"))
        and "state_dict" in next(iter(inspect.signature(function).parameters)) + name
    }
    assert found - PARTS_OF_OTHERS == READ | REFUSED.keys()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_checkpoint.make(tmp_path_factory.mktemp("lora") / "model", "tiny-flux")


@pytest.mark.parametrize("converter", REFUSED)
def test_files_of_other_models_are_refused_by_name(
    converter: str, folder: Path, tmp_path: Path
) -> None:
    layers, model = REFUSED[converter]
    state: State = {}
    for layer in layers:
        if layer.endswith(".scale"):
            state[layer] = draw(8)
        else:
            state[f"{layer}.lora_A.weight"] = draw(2, 8)
            state[f"{layer}.lora_B.weight"] = draw(8, 2)
    path = saved(tmp_path / "a.safetensors", state)
    with pytest.raises(CheckpointError, match=model):
        Lora.open(path, 1.0).targets(Checkpoint.open(folder))


@pytest.fixture(scope="module")
def flux_layers() -> tuple[dict[str, tuple[Piece, ...]], dict[str, tuple[int, ...]]]:
    """The original layers of FLUX.1 dev, and the shape of every linear weight of diffusers."""
    config = published_configs("flux-dev")["transformer"]
    with torch.device("meta"):
        module: Any = FluxTransformer2DModel.from_config(config)
    shapes: dict[str, tuple[int, ...]] = {
        name: tuple(layer.weight.shape)
        for name, layer in module.named_modules()
        if isinstance(layer, torch.nn.Linear)
    }
    rows = {name: shape[0] for name, shape in shapes.items()}
    return original_layers("FluxTransformer2DModel", config, rows), shapes


def rank_one(
    layers: dict[str, tuple[Piece, ...]], shapes: dict[str, tuple[int, ...]], wanted: Any
) -> dict[str, tuple[Tensor, Tensor]]:
    """Original layer -> (A [1, in], B [out, 1])."""
    chosen = [name for name in layers if wanted(name)]
    return {
        name: (
            draw(1, shapes[layers[name][0].layer][1], seed=seed),
            draw(layers[name][-1].stop, 1, seed=seed + 5000),
        )
        for seed, name in enumerate(chosen)
    }


def kohya(name: str) -> str:
    return "lora_unet_" + name.replace(".", "_")


@pytest.mark.parametrize(
    ("converter", "spell", "down", "up"),
    [
        (theirs._convert_kohya_flux_lora_to_diffusers, kohya, "lora_down", "lora_up"),
        (
            theirs._convert_fal_kontext_lora_to_diffusers,
            lambda name: f"base_model.model.{name}",
            "lora_A",
            "lora_B",
        ),
    ],
    ids=["kohya", "fal"],
)
def test_layers_of_full_width_are_split_as_diffusers_does(
    converter: Callable[[State], State],
    spell: Callable[[str], str],
    down: str,
    up: str,
    flux_layers: tuple[dict[str, tuple[Piece, ...]], dict[str, tuple[int, ...]]],
) -> None:
    """diffusers' converters have the widths of FLUX.1 dev written into them."""
    layers, shapes = flux_layers
    blocks = ("double_blocks", "single_blocks", "final_layer.linear")
    state = rank_one(
        layers, shapes, lambda name: name.startswith(blocks) and "processor" not in name
    )
    file = {f"{spell(name)}.{down}.weight": a for name, (a, _) in state.items()}
    file |= {f"{spell(name)}.{up}.weight": b for name, (_, b) in state.items()}
    converted = {name.removeprefix("transformer."): t for name, t in converter(file).items()}
    for name, (a, b) in state.items():
        for piece in layers[name]:
            assert torch.equal(converted[f"{piece.layer}.lora_A.weight"], a), name
            assert torch.equal(converted[f"{piece.layer}.lora_B.weight"], b[piece.original]), name
    assert len(converted) == 2 * sum(len(layers[name]) for name in state)
