"""The configs of a single file's parts.

SD 3 and FLUX were published in several sizes, so the sizes of a transformer are read from the
shapes of its tensors. Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from engine.errors import CheckpointError
from engine.models.family import Configs
from engine.models.published import published_configs
from engine.models.single_files import SingleFile
from engine.safetensors_header import Header

Shapes = Mapping[str, tuple[int, ...]]
SMALL = 64
"""Latent cells per side of a Stable Diffusion 2 that predicts noise: 512 pixels, not 768."""


def configs_without_base(single: SingleFile) -> dict[str, dict[str, Any]]:
    """The published configs of a file that has every part."""
    configs = published_configs(single.kind)
    if single.kind == "stable-diffusion-2" and single.prediction == "epsilon":
        configs[single.denoiser]["sample_size"] = SMALL
    return configs


def part_config(
    single: SingleFile, part: str, header: Header, config: Mapping[str, Any]
) -> dict[str, Any]:
    """The config of a part.

    Args:
        single: the file.
        header: of the file.
        config: the published one, or that of the base checkpoint.

    Raises CheckpointError if a tensor that states a size is missing.
    """
    if part != single.denoiser:
        return dict(config)
    if single.is_diffusion:
        return dict(config)
    prefix = single.parts[part]
    shapes = {
        name.removeprefix(prefix): tuple(tensor["shape"])
        for name, tensor in header.items()
        if name.startswith(prefix)
    }
    read = _stable_diffusion_3 if single.kind == "stable-diffusion-3" else _flux
    try:
        return {**config, **read(shapes, config)}
    except (KeyError, IndexError, ValueError) as error:
        raise CheckpointError(
            f"lacks tensors of {single.title} ({error}); download the file again"
        ) from None


def scheduler_config(single: SingleFile, configs: Configs) -> dict[str, Any]:
    """The training schedule: that of the configs, updated with what the file states."""
    config = dict(configs["scheduler"])
    if single.family == "flux":
        guided = configs[single.denoiser].get("guidance_embeds")
        if guided is not None and bool(guided) != (single.kind == "flux-dev"):
            return dict(published_configs(single.kind)["scheduler"])  # the base is the other FLUX.1
    if single.prediction is not None:
        config["prediction_type"] = single.prediction
    if single.zero_terminal_snr:
        config |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return config


def _blocks(shapes: Shapes, name: str) -> int:
    """The number of blocks with a name."""
    return len({key.split(".")[1] for key in shapes if key.startswith(f"{name}.")})


def _stable_diffusion_3(shapes: Shapes, template: Mapping[str, Any]) -> dict[str, Any]:
    width, channels, patch, _ = shapes["x_embedder.proj.weight"]
    dual = {int(key.split(".")[1]) for key in shapes if ".attn2." in key}
    norm = shapes.get("joint_blocks.0.x_block.attn.ln_q.weight")
    head = norm[0] if norm else int(template["attention_head_dim"])
    projection, joint = shapes["context_embedder.weight"]
    return {
        "patch_size": patch,
        "in_channels": channels,
        "out_channels": shapes["final_layer.linear.weight"][0] // patch**2,
        "num_layers": _blocks(shapes, "joint_blocks"),
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": joint,
        "caption_projection_dim": projection,
        "pooled_projection_dim": shapes["y_embedder.mlp.0.weight"][1],
        "pos_embed_max_size": math.isqrt(shapes["pos_embed"][1]),
        "dual_attention_layers": sorted(dual),
        "qk_norm": "rms_norm" if norm else None,
    }


def _flux(shapes: Shapes, template: Mapping[str, Any]) -> dict[str, Any]:
    width, channels = shapes["img_in.weight"]
    (head,) = shapes["double_blocks.0.img_attn.norm.query_norm.scale"]
    return {
        "in_channels": channels,
        "num_layers": _blocks(shapes, "double_blocks"),
        "num_single_layers": _blocks(shapes, "single_blocks"),
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": shapes["txt_in.weight"][1],
        "pooled_projection_dim": shapes["vector_in.in_layer.weight"][1],
        "guidance_embeds": any(key.startswith("guidance_in.") for key in shapes),
    }
