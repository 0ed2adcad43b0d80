"""Recognize LoRA files of unsupported models by the names of their tensors.

The names are those that diffusers' converters read (`diffusers.loaders.lora_conversion_utils`).
FLUX.2 and HunyuanVideo share most names with FLUX.1: their files are recognized here by layers that
FLUX.1 does not have, or fail later at the first layer with another shape. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_BLOCK = r"blocks[._]\d+[._]"
MARKS: dict[str, str] = {
    r"[._](individual_)?token_refiner[._]blocks[._]\d+[._]adaLN|\.(img|txt)_attn_(qkv|proj)\.": (
        "HunyuanVideo"
    ),
    r"(noise|context)_refiner[._]|(^|[._])layers[._]\d+[._]attention[._]": (
        "Lumina 2, Z-Image or Ideogram"
    ),
    rf"{_BLOCK}(self|cross)_attn[._](q|k|v|o|k_img|v_img)\.": "Wan",
    rf"llm_adapter[._]|(?<!mode_){_BLOCK}(self|cross)_attn[._](q|k|v|output)_proj\.": "Anima",
    r"(double|single)_stream_blocks[._]": "HiDream",
    r"^(diffusion_model|transformer)\.transformer_blocks\.\d+\.(audio_)?attn[12]\.": "LTX-Video",
    rf"transformer_{_BLOCK}(img|txt)_(mlp[._]net|mod[._]1)[._]": "Qwen-Image",
    r"to_qkv_mlp_proj|stream_modulation|ff(_context)?[._]linear_(in|out)[._]": "FLUX.2",
    rf"mode_blocks[._]|{_BLOCK}(attn_out|mlp_in|mlp_out)[._]": "FLUX.3",
    rf"{_BLOCK}attn[._](wq|wk|wv|wo|gate)[._]|txtfusion[._]": "Krea 2",
    r"(^|[._])layers[._]\d+[._]cross_attn[._]": "ACE-Step",
    rf"{_BLOCK}attn[._](qkv_proj|out_proj)[._]": "MiniMax-H3",
}
"""A pattern that a tensor's name contains -> the model."""


def other_model(names: Iterable[str]) -> str | None:
    """Return the unsupported model of a file with these names, or None."""
    names = list(names)
    return next((m for mark, m in MARKS.items() if any(re.search(mark, n) for n in names)), None)
