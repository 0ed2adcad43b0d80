"""SD 3 in the layout of Stability's code, and FLUX in that of Black Forest Labs'."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

Weights = dict[str, Tensor]


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
