"""Parse the names of tensors in LoRA files: the part, the layer and the kind of the tensor.

Training programs use different names for the same tensor:

    kohya, LyCORIS   lora_unet_mid_block_attentions_0_proj_in.lora_down.weight
    diffusers        unet.mid_block.attentions.0.proj_in.lora.down.weight
    older diffusers  mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.up.weight
    PEFT             base_model.model.mid_block.attentions.0.proj_in.lora_A.weight
    OneTrainer       lora_transformer_transformer_blocks_0_attn_to_q.lora_down.weight
    ai-toolkit       transformer.transformer_blocks.0.attn.to_q.lora_A.weight
    ComfyUI          diffusion_model.double_blocks.0.img_attn.qkv.lora_A.weight
    XLabs            double_blocks.0.processor.qkv_lora1.down.weight
    fal              base_model.model.double_blocks.0.img_attn.qkv.lora_A.weight

The layers may also have the names of the original code; see `engine.models.original_names`.

Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from engine.models import Part

PEFT_PREFIX = "base_model.model."
_KINDS = {
    "A": "down",
    "B": "up",
    "lora_magnitude_vector": "magnitude",
    "w_norm": "diff",
    "b_norm": "diff_b",
}
"""Other names of the same tensor."""

_TENSOR = re.compile(
    r"(?P<layer>.+?)(?:"
    r"\.lora_(?P<kohya>down|up|mid)\.weight"
    r"|\.lora_(?P<peft>A|B)(?:\.(?!bias)\w+)?\.weight"
    r"|(?P<old>_lora[12]?|\.lora|\.lora_linear_layer)\.(?P<diffusers>down\.weight|up\.weight|alpha)"
    r"|\.(?P<magnitude>lora_magnitude_vector)(?:\.\w+)*"
    r"|\.(?P<plain>alpha|dora_scale|diff|diff_b|w_norm|b_norm"
    r"|hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2))(?:\.default)?"
    r")"
)
_OLD_TEXT_LAYERS = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}


@dataclass(frozen=True)
class TensorName:
    """One tensor of a LoRA file.

    Attributes:
        part: the part in the name, such as "unet"; None if the name has none.
        layer: the layer's path in the file, without the part.
        kind: "down", "up", "mid", "alpha", "dora_scale", "magnitude", "diff", "diff_b", or the
            name of a LoHa or LoKr tensor.
    """

    part: str | None
    layer: str
    kind: str


def parse(name: str, prefixes: Mapping[str, str]) -> TensorName | None:
    """Read a tensor's name; None if no known method has a tensor of that name.

    Args:
        name: as in the file.
        prefixes: prefix of layer names -> the part; see `part_prefixes`.
    """
    match = _TENSOR.fullmatch(name)
    if match is None:
        return None
    found = match["kohya"] or match["peft"] or match["diffusers"] or match["magnitude"]
    kind = (found or match["plain"]).removesuffix(".weight")
    part, layer = _part(match["layer"], prefixes)
    if (match["old"] or "").startswith("_lora"):
        layer = _old_layer(layer, match["old"])
    return TensorName(part, layer, _KINDS.get(kind, kind))


def plain(layer: str) -> str:
    """Normalize a layer's path for comparison.

    Underscores replace dots, and the level `text_model`, which only some versions of transformers
    have, is removed.
    """
    return layer.replace(".", "_").removeprefix("text_model_")


def part_prefixes(parts: Iterable[Part]) -> dict[str, str]:
    """Prefix of layer names -> the part's name, for the parts of a family."""
    return {
        prefix: part.name for part in parts for prefix in (*part.lora_prefixes, f"{part.name}.")
    }


def _part(layer: str, prefixes: Mapping[str, str]) -> tuple[str | None, str]:
    """Split a layer into the part that its prefix names, and the rest."""
    layer = layer.removeprefix(PEFT_PREFIX).removeprefix("lycoris_")
    for prefix, part in prefixes.items():
        if layer.startswith(prefix):
            return part, layer.removeprefix(prefix).removeprefix(PEFT_PREFIX)
    return None, layer


def _old_layer(layer: str, end: str) -> str:
    """Rename layers of older diffusers, such as `attn1.processor.to_out` to `attn1.to_out.0`.

    XLabs' `processor.qkv` keeps its `end`, which identifies the stream.
    """
    path, _, name = layer.rpartition(".")
    if name in ("qkv", "proj"):
        return layer + end
    if path.endswith(".processor"):
        name = "to_out.0" if name == "to_out" else name
        return f"{path.removesuffix('.processor')}.{name}"
    return f"{path}.{_OLD_TEXT_LAYERS.get(name, name)}"
