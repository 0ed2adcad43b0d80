"""Stable Diffusion 1, 2 and XL in the layouts of LDM and SGM: U-Net, VAE and OpenCLIP."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Weights = dict[str, Tensor]
UNET = "model.diffusion_model."
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
OUTER = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def unet_to_ldm(own: Mapping[str, Tensor], config: Mapping[str, Any]) -> Weights:
    """A U-Net in LDM's numbering of blocks."""
    each = int(config["layers_per_block"]) + 1
    attentive = {n.split(".")[1] for n in own if n.startswith("up_blocks.") and "attentions" in n}

    def renamed(name: str) -> str:
        for new, old in OUTER.items():
            if name.startswith(f"{new}."):
                return name.replace(new, old, 1)
        place = re.match(r"(down|up|mid)_block(?:s\.(\d+))?\.(\w+)\.(\d+)\.(.+)", name)
        assert place, name
        where, block, kind, number, rest = place.groups()
        block, number = int(block or 0), int(number)
        if kind == "resnets":
            for new, old in RESNET.items():
                rest = re.sub(rf"^{new}\b", old, rest)
        if where == "mid":
            return f"middle_block.{2 * number if kind == 'resnets' else 1}.{rest}"
        inner = 0 if kind == "resnets" else 1
        if kind == "downsamplers":
            return f"input_blocks.{(block + 1) * each}.0.op.{rest.removeprefix('conv.')}"
        if kind == "upsamplers":
            last = 2 if str(block) in attentive else 1
            return f"output_blocks.{(block + 1) * each - 1}.{last}.{rest}"
        if where == "down":
            return f"input_blocks.{1 + block * each + number}.{inner}.{rest}"
        return f"output_blocks.{block * each + number}.{inner}.{rest}"

    return {UNET + renamed(n): t for n, t in own.items()}


def vae_to_ldm(own: Mapping[str, Tensor], config: Mapping[str, Any], prefix: str) -> Weights:
    """A VAE in LDM's layout: the decoder's levels are counted from below, attention is 1 x 1."""
    levels = len(config["block_out_channels"])

    def renamed(name: str) -> str:
        name = re.sub(r"down_blocks\.(\d+)\.resnets\.", r"down.\1.block.", name)
        name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0\.", r"down.\1.downsample.", name)
        up = re.search(r"up_blocks\.(\d+)\.", name)
        if up:
            name = name.replace(up[0], f"up.{levels - 1 - int(up[1])}.")
            name = name.replace(".resnets.", ".block.").replace(".upsamplers.0.", ".upsample.")
        name = re.sub(r"mid_block\.resnets\.(\d)\.", lambda m: f"mid.block_{int(m[1]) + 1}.", name)
        name = name.replace("mid_block.attentions.0.", "mid.attn_1.")
        for new, old in (
            ("group_norm", "norm"),
            ("to_q", "q"),
            ("to_k", "k"),
            ("to_v", "v"),
            ("to_out.0", "proj_out"),
            ("conv_norm_out", "norm_out"),
            ("conv_shortcut", "nin_shortcut"),
        ):
            name = name.replace(f".{new}.", f".{old}.")
        return prefix + name

    def reshaped(name: str, tensor: Tensor) -> Tensor:
        linear = "attentions" in name and name.endswith(".weight") and tensor.dim() == 2
        return tensor[:, :, None, None] if linear else tensor

    return {renamed(n): reshaped(n, t) for n, t in own.items()}


def open_clip_to_original(own: Mapping[str, Tensor], prefix: str) -> Weights:
    """CLIP in OpenCLIP's layout, with one matrix for q, k and v."""
    own = {n.removeprefix("text_model."): t for n, t in own.items()}
    state: Weights = {
        f"{prefix}token_embedding.weight": own["embeddings.token_embedding.weight"],
        f"{prefix}positional_embedding": own["embeddings.position_embedding.weight"],
        f"{prefix}ln_final.weight": own["final_layer_norm.weight"],
        f"{prefix}ln_final.bias": own["final_layer_norm.bias"],
    }
    if "text_projection.weight" in own:
        state[f"{prefix}text_projection"] = own["text_projection.weight"].T
    for name, tensor in own.items():
        found = re.match(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
        if found is None:
            continue
        block, layer, kind = f"{prefix}transformer.resblocks.{found[1]}.", found[2], found[3]
        if layer == "self_attn.q_proj":
            joined = [own[name.replace("q_proj", f"{x}_proj")] for x in "qkv"]
            state[f"{block}attn.in_proj_{kind}"] = torch.cat(joined)
        elif layer in OPEN_CLIP:
            state[f"{block}{OPEN_CLIP[layer]}.{kind}"] = tensor
    return state
