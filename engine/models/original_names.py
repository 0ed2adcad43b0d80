"""The layers of a denoiser under the names of the original code, which many LoRA files use.

LDM and SGM number the blocks of a U-Net differently. SD 3 and FLUX have q, k and v in one layer,
whose rows belong to several layers in diffusers. XLabs uses the names of its own attention
processors. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Place = tuple[str, int]
"""An original layer, and the index of a diffusers layer among the layers that it consists of."""
Rename = Callable[[str], Place | None]


@dataclass(frozen=True)
class Piece:
    """A range of rows of an original layer, and where it is in diffusers.

    Attributes:
        layer: path of the layer in diffusers.
        start, stop: the rows of the original layer.
        to: index of the first of these rows in the layer of diffusers.
    """

    layer: str
    start: int
    stop: int
    to: int = 0

    @property
    def own(self) -> slice:
        """The rows in the layer of diffusers."""
        return slice(self.to, self.to + self.stop - self.start)

    @property
    def original(self) -> slice:
        """The rows in the original layer."""
        return slice(self.start, self.stop)


def original_layers(
    class_name: str, config: Mapping[str, Any], rows: Mapping[str, int]
) -> dict[str, tuple[Piece, ...]]:
    """Original path -> the pieces of that layer, in the order of their rows.

    Args:
        class_name: the denoiser's class in diffusers.
        config: its config.
        rows: path of each of its layers -> rows of its weight.
    """
    renames = [rename(config) for rename in RENAMES[class_name]]
    found: dict[str, dict[int, str]] = {}
    for path in rows:
        for place in filter(None, (rename(path) for rename in renames)):
            found.setdefault(place[0], {})[place[1]] = path
    return {
        name: _pieces(name, [paths[n] for n in sorted(paths)], rows)
        for name, paths in found.items()
    }


def _pieces(name: str, paths: list[str], rows: Mapping[str, int]) -> tuple[Piece, ...]:
    if name.endswith(SWAPPED):
        (path,) = paths
        half = rows[path] // 2
        return Piece(path, 0, half, half), Piece(path, half, 2 * half, 0)
    pieces, start = [], 0
    for path in paths:
        pieces.append(Piece(path, start, start + rows[path]))
        start += rows[path]
    return tuple(pieces)


SWAPPED = ("final_layer.adaLN_modulation.1",)
"""Layers whose two halves, shift and scale, are swapped in diffusers."""
_UNET_OUTER = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_BLOCK = re.compile(r"(down|up|mid)_block(?:s\.(\d+))?\.(\w+)\.(\d+)\.(.+)")


def _unet(config: Mapping[str, Any]) -> Rename:
    each = int(config.get("layers_per_block", 2)) + 1
    attentive = [
        index for index, kind in enumerate(config["up_block_types"]) if "CrossAttn" in kind
    ]

    def rename(path: str) -> Place | None:
        if path in _UNET_OUTER:
            return _UNET_OUTER[path], 0
        match = _UNET_BLOCK.fullmatch(path)
        if match is None:
            return None
        where, kind, rest = match[1], match[3], match[5]
        block, number = int(match[2] or 0), int(match[4])
        if kind == "resnets":
            rest = _RESNET.get(rest, rest)
        inner = 1 if kind == "attentions" else 0
        if where == "mid":
            return f"middle_block.{1 if inner else 2 * number}.{rest}", 0
        if kind == "downsamplers":
            return f"input_blocks.{(block + 1) * each}.0.op", 0
        if kind == "upsamplers":
            last = 2 if block in attentive else 1
            return f"output_blocks.{(block + 1) * each - 1}.{last}.conv", 0
        if where == "down":
            return f"input_blocks.{1 + block * each + number}.{inner}.{rest}", 0
        return f"output_blocks.{block * each + number}.{inner}.{rest}", 0

    return rename


_JOINT = {
    "attn.to_q": ("x_block.attn.qkv", 0),
    "attn.to_k": ("x_block.attn.qkv", 1),
    "attn.to_v": ("x_block.attn.qkv", 2),
    "attn.to_out.0": ("x_block.attn.proj", 0),
    "attn.add_q_proj": ("context_block.attn.qkv", 0),
    "attn.add_k_proj": ("context_block.attn.qkv", 1),
    "attn.add_v_proj": ("context_block.attn.qkv", 2),
    "attn.to_add_out": ("context_block.attn.proj", 0),
    "attn2.to_q": ("x_block.attn2.qkv", 0),
    "attn2.to_k": ("x_block.attn2.qkv", 1),
    "attn2.to_v": ("x_block.attn2.qkv", 2),
    "attn2.to_out.0": ("x_block.attn2.proj", 0),
    "norm1.linear": ("x_block.adaLN_modulation.1", 0),
    "ff.net.0.proj": ("x_block.mlp.fc1", 0),
    "ff.net.2": ("x_block.mlp.fc2", 0),
    "ff_context.net.0.proj": ("context_block.mlp.fc1", 0),
    "ff_context.net.2": ("context_block.mlp.fc2", 0),
}
"""Layers of a block of SD 3. The modulation of the context is left out: its halves are in the other
order in the last block alone."""
_SD3_OUTER = {
    "pos_embed.proj": "x_embedder.proj",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "proj_out": "final_layer.linear",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
}
_DOUBLE = {
    "attn.to_q": ("img_attn.qkv", 0),
    "attn.to_k": ("img_attn.qkv", 1),
    "attn.to_v": ("img_attn.qkv", 2),
    "attn.to_out.0": ("img_attn.proj", 0),
    "attn.add_q_proj": ("txt_attn.qkv", 0),
    "attn.add_k_proj": ("txt_attn.qkv", 1),
    "attn.add_v_proj": ("txt_attn.qkv", 2),
    "attn.to_add_out": ("txt_attn.proj", 0),
    "norm1.linear": ("img_mod.lin", 0),
    "norm1_context.linear": ("txt_mod.lin", 0),
    "ff.net.0.proj": ("img_mlp.0", 0),
    "ff.net.2": ("img_mlp.2", 0),
    "ff_context.net.0.proj": ("txt_mlp.0", 0),
    "ff_context.net.2": ("txt_mlp.2", 0),
}
_SINGLE = {
    "attn.to_q": ("linear1", 0),
    "attn.to_k": ("linear1", 1),
    "attn.to_v": ("linear1", 2),
    "proj_mlp": ("linear1", 3),
    "proj_out": ("linear2", 0),
    "norm.linear": ("modulation.lin", 0),
}
_XLABS_DOUBLE = {
    "attn.to_q": ("processor.qkv_lora1", 0),
    "attn.to_k": ("processor.qkv_lora1", 1),
    "attn.to_v": ("processor.qkv_lora1", 2),
    "attn.to_out.0": ("processor.proj_lora1", 0),
    "attn.add_q_proj": ("processor.qkv_lora2", 0),
    "attn.add_k_proj": ("processor.qkv_lora2", 1),
    "attn.add_v_proj": ("processor.qkv_lora2", 2),
    "attn.to_add_out": ("processor.proj_lora2", 0),
}
_XLABS_SINGLE = {
    "attn.to_q": ("processor.qkv_lora", 0),
    "attn.to_k": ("processor.qkv_lora", 1),
    "attn.to_v": ("processor.qkv_lora", 2),
    "proj_out": ("processor.proj_lora", 0),
}
_FLUX_OUTER = {
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


def _transformer(
    outer: Mapping[str, str], blocks: Mapping[str, tuple[str, Mapping[str, Place]]]
) -> Callable[[Mapping[str, Any]], Rename]:
    """`blocks`: name of a list of blocks -> its original name, and the layers of a block."""

    def rename(path: str) -> Place | None:
        if path in outer:
            return outer[path], 0
        name, _, rest = path.partition(".")
        number, _, inner = rest.partition(".")
        if name not in blocks or inner not in blocks[name][1]:
            return None
        original, layers = blocks[name]
        layer, position = layers[inner]
        return f"{original}.{number}.{layer}", position

    return lambda config: rename


def _flux(
    outer: Mapping[str, str], double: Mapping[str, Place], single: Mapping[str, Place]
) -> Callable[[Mapping[str, Any]], Rename]:
    blocks = {
        "transformer_blocks": ("double_blocks", double),
        "single_transformer_blocks": ("single_blocks", single),
    }
    return _transformer(outer, blocks)


RENAMES: Mapping[str, tuple[Callable[[Mapping[str, Any]], Rename], ...]] = {
    "UNet2DConditionModel": (_unet,),
    "SD3Transformer2DModel": (
        _transformer(_SD3_OUTER, {"transformer_blocks": ("joint_blocks", _JOINT)}),
    ),
    "FluxTransformer2DModel": (
        _flux(_FLUX_OUTER, _DOUBLE, _SINGLE),
        _flux({}, _XLABS_DOUBLE, _XLABS_SINGLE),
    ),
}
"""Class of a denoiser -> its renamings, given the config."""
