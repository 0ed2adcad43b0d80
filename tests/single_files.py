"""Write diffusers checkpoints in the layouts of the original code: LDM, SGM, SD 3 and FLUX.

It is the inverse of what diffusers' single-file loaders do, written from the layouts themselves.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
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
TRANSFORMERS = {"text_encoder": "clip_l", "text_encoder_2": "clip_g", "text_encoder_3": "t5xxl"}


def single_file(folder: Path, path: Path, *, parts: tuple[str, ...] | None = None) -> Path:
    """Write the checkpoint in `folder` (all parts, or some) as one file, in its own dtype."""
    config = _config(folder, "unet" if (folder / "unet").is_dir() else "transformer")
    texts = sorted(p.name for p in folder.glob("text_encoder*"))
    state: Weights = {}
    wanted = parts or (config["part"], "vae", *texts)
    for part in wanted:
        state |= _part(folder, part, texts)
    save_file({n: t.contiguous().clone() for n, t in state.items()}, path)
    return path


def weights(folder: Path, part: str) -> Weights:
    """All tensors of a part's files."""
    found: Weights = {}
    for file in sorted((folder / part).glob("*.safetensors")):
        found |= load_file(file)
    return found


def _config(folder: Path, part: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((folder / part / "config.json").read_text())
    return {**data, "part": part}


def _part(folder: Path, part: str, texts: list[str]) -> Weights:
    own = weights(folder, part)
    if part == "unet":
        return unet_to_ldm(own, _config(folder, part))
    if part == "vae":
        return vae_to_ldm(own, _config(folder, part), "first_stage_model.")
    if part == "transformer":
        convert = (
            sd3_to_original
            if "context_embedder.bias" in own and any(n.startswith("pos_embed.") for n in own)
            else flux_to_original
        )
        return {f"{UNET}{n}": t for n, t in convert(own).items()}
    if (folder / "transformer").is_dir():
        name = TRANSFORMERS[part]
        if len(texts) == 2 and not any("text_model" in n or "embeddings" in n for n in own):
            name = "t5xxl"  # FLUX
        return _prefixed(own, f"text_encoders.{name}.transformer.", clip=name != "t5xxl")
    if len(texts) == 1:
        open_clip = _config(folder, part).get("hidden_act") == "gelu"
        return (
            open_clip_to_original(own, "cond_stage_model.model.")
            if open_clip
            else _prefixed(own, "cond_stage_model.transformer.", clip=True)
        )
    if part == "text_encoder":
        return _prefixed(own, "conditioner.embedders.0.transformer.", clip=True)
    return open_clip_to_original(own, "conditioner.embedders.1.model.")


def _prefixed(own: Mapping[str, Tensor], prefix: str, *, clip: bool) -> Weights:
    """CLIP's tensors have the level `text_model`, whichever version of transformers saved them."""

    def renamed(name: str) -> str:
        bare = clip and not name.startswith(("text_model.", "text_projection"))
        return f"{prefix}{'text_model.' if bare else ''}{name}"

    return {renamed(n): t for n, t in own.items()}


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


def _swapped(tensor: Tensor) -> Tensor:
    """Scale and shift in the other order."""
    first, second = tensor.chunk(2)
    return torch.cat([second, first])


JOINT = {
    "attn.to_out.0": "x_block.attn.proj",
    "attn.to_add_out": "context_block.attn.proj",
    "attn.norm_q": "x_block.attn.ln_q",
    "attn.norm_k": "x_block.attn.ln_k",
    "attn.norm_added_q": "context_block.attn.ln_q",
    "attn.norm_added_k": "context_block.attn.ln_k",
    "attn2.to_out.0": "x_block.attn2.proj",
    "attn2.norm_q": "x_block.attn2.ln_q",
    "attn2.norm_k": "x_block.attn2.ln_k",
    "norm1.linear": "x_block.adaLN_modulation.1",
    "norm1_context.linear": "context_block.adaLN_modulation.1",
    "ff.net.0.proj": "x_block.mlp.fc1",
    "ff.net.2": "x_block.mlp.fc2",
    "ff_context.net.0.proj": "context_block.mlp.fc1",
    "ff_context.net.2": "context_block.mlp.fc2",
}
JOINT_QKV = {
    "attn.to_q": "x_block.attn.qkv",
    "attn.add_q_proj": "context_block.attn.qkv",
    "attn2.to_q": "x_block.attn2.qkv",
}
SD3_OUTER = {
    "pos_embed.proj": "x_embedder.proj",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "context_embedder": "context_embedder",
    "proj_out": "final_layer.linear",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
}


def sd3_to_original(own: Mapping[str, Tensor]) -> Weights:
    """An SD 3 transformer in the layout of Stability's code."""
    last = max(int(n.split(".")[1]) for n in own if n.startswith("transformer_blocks."))
    state: Weights = {"pos_embed": own["pos_embed.pos_embed"]}
    for name, tensor in own.items():
        layer, _, kind = name.rpartition(".")
        if layer in SD3_OUTER:
            swap = layer == "norm_out.linear"
            state[f"{SD3_OUTER[layer]}.{kind}"] = _swapped(tensor) if swap else tensor
            continue
        found = re.match(r"transformer_blocks\.(\d+)\.(.+)", layer)
        if found is None:
            continue
        block, inner = f"joint_blocks.{found[1]}.", found[2]
        if inner in JOINT_QKV:
            state[f"{block}{JOINT_QKV[inner]}.{kind}"] = _joined(own, name)
        elif inner in JOINT:
            swap = inner == "norm1_context.linear" and int(found[1]) == last
            state[f"{block}{JOINT[inner]}.{kind}"] = _swapped(tensor) if swap else tensor
    return state


def _joined(own: Mapping[str, Tensor], name: str, *more: str) -> Tensor:
    """q, k and v, and more, below each other; `name` is that of q."""
    q = "add_q_proj" if "add_q_proj" in name else "to_q"
    names = [name.replace(q, q.replace("q", x)) for x in "qkv"]
    return torch.cat([own[n] for n in (*names, *more)])


DOUBLE = {
    "norm1.linear": "img_mod.lin",
    "norm1_context.linear": "txt_mod.lin",
    "ff.net.0.proj": "img_mlp.0",
    "ff.net.2": "img_mlp.2",
    "ff_context.net.0.proj": "txt_mlp.0",
    "ff_context.net.2": "txt_mlp.2",
    "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj",
}
DOUBLE_QKV = {"attn.to_q": "img_attn.qkv", "attn.add_q_proj": "txt_attn.qkv"}
FLUX_NORMS = {
    "attn.norm_q": "img_attn.norm.query_norm",
    "attn.norm_k": "img_attn.norm.key_norm",
    "attn.norm_added_q": "txt_attn.norm.query_norm",
    "attn.norm_added_k": "txt_attn.norm.key_norm",
}
FLUX_OUTER = {
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "context_embedder": "txt_in",
    "x_embedder": "img_in",
    "proj_out": "final_layer.linear",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
}


def flux_to_original(own: Mapping[str, Tensor]) -> Weights:
    """A FLUX transformer in the layout of Black Forest Labs' code."""
    state: Weights = {}
    for name, tensor in own.items():
        layer, _, kind = name.rpartition(".")
        if layer in FLUX_OUTER:
            swap = layer == "norm_out.linear"
            state[f"{FLUX_OUTER[layer]}.{kind}"] = _swapped(tensor) if swap else tensor
        elif layer.startswith("single_transformer_blocks."):
            state |= _single_block(own, layer, kind)
        elif found := re.match(r"transformer_blocks\.(\d+)\.(.+)", layer):
            block, inner = f"double_blocks.{found[1]}.", found[2]
            if inner in DOUBLE_QKV:
                state[f"{block}{DOUBLE_QKV[inner]}.{kind}"] = _joined(own, name)
            elif inner in FLUX_NORMS:
                state[f"{block}{FLUX_NORMS[inner]}.scale"] = tensor
            elif inner in DOUBLE:
                state[f"{block}{DOUBLE[inner]}.{kind}"] = tensor
    return state


def _single_block(own: Mapping[str, Tensor], layer: str, kind: str) -> Weights:
    _, number, inner = layer.split(".", 2)
    block, name = f"single_blocks.{number}.", f"{layer}.{kind}"
    if inner == "attn.to_q":
        mlp = name.replace("attn.to_q", "proj_mlp")
        return {f"{block}linear1.{kind}": _joined(own, name, mlp)}
    plain = {"norm.linear": "modulation.lin", "proj_out": "linear2"}
    if inner in plain:
        return {f"{block}{plain[inner]}.{kind}": own[name]}
    norms = {"attn.norm_q": "norm.query_norm", "attn.norm_k": "norm.key_norm"}
    return {f"{block}{norms[inner]}.scale": own[name]} if inner in norms else {}
