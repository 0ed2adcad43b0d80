"""Identify safetensors files that are not a model, or not of a supported family.

Standard library only.
"""

from __future__ import annotations

from collections.abc import Collection

from engine.safetensors_header import Header

BASE = "use a checkpoint of Stable Diffusion 1, 2, XL, 3, 3.5 or FLUX.1"
KINDS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("lora_", ".lora.", "hada_w1", "lokr_w1"), "a LoRA, not a whole model; pass it as --lora, and "
     "pass its base model here"),
    (("emb_params", "string_to_param"), "a textual inversion, not a whole model; pass it as "
     "--embedding"),
    (("control_model.", "controlnet_cond_embedding", "input_hint_block", "controlnet_blocks"),
     "a ControlNet, not a whole model; name the model here"),
    (("ip_adapter.", "image_proj."), "an IP-Adapter, not a whole model; name the model here"),
    (("motion_modules.",), f"a motion module of AnimateDiff; {BASE}"),
    (("distilled_guidance_layer.",), f"Chroma, which is not supported; {BASE}"),
    (("single_stream_modulation.",), f"FLUX.2, which is not supported; {BASE}"),
    (("edm_mean",), f"Playground v2.5, which is not supported; {BASE}"),
    (("double_layers.", "single_layers."), f"AuraFlow, which is not supported; {BASE}"),
    (("clip_txt_mapper.", "clip_mapper."), f"Stable Cascade, which is not supported; {BASE}"),
    (("cap_embedder.",), f"Lumina or Z-Image, which is not supported; {BASE}"),
    (("txt_norm.", "img_mod.1."), f"Qwen-Image, which is not supported; {BASE}"),
    (("adaln_single.",), f"PixArt or a video model, which is not supported; {BASE}"),
    (("head.modulation",), f"Wan, a video model, which is not supported; {BASE}"),
    (("single_transformer_blocks.", "transformer_blocks.0.norm1_context"), "a transformer in "
     "diffusers' layout; put it into the folder transformer of a diffusers checkpoint, and name "
     "that checkpoint's folder"),
)  # fmt: skip
"""Parts of tensor names -> the kind of file, and what to do."""
PARTS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("decoder.conv_in.", "decoder.mid."), "a VAE, not a whole model; pass it as --vae, and name "
     "the model here"),
    (("down_blocks.", "input_blocks."), "a U-Net, not a whole model; name the folder of its "
     "checkpoint"),
    (("encoder.layers.", "encoder.block.", "resblocks."), "a text encoder, not a whole model; name "
     "the folder of its checkpoint"),
)  # fmt: skip
"""The same for files with a single part."""
MODELS = ("model.diffusion_model.", "joint_blocks.0.", "double_blocks.0.")
SCALED = ("scaled_fp8", ".scale_weight", ".weight_scale", ".scale_input", ".comfy_quant")
BITSANDBYTES = (".absmax", ".quant_map", "quant_state", ".SCB", ".nested_absmax")
UNQUANTIZED = "use the fp16 or bf16 file of the same model"


def foreign_kind(names: Collection[str]) -> str | None:
    """The kind of a file that is not a model, and what to do; None if it may be a model."""

    def some(parts: Collection[str]) -> bool:
        return any(part in name for name in names for part in parts)

    found = next((what for parts, what in KINDS if some(parts)), None)
    if found:
        return found
    if {"clip_l", "clip_g"} & set(names) or (len(names) == 1 and _is_token(min(names))):
        return "a textual inversion, not a whole model; pass it as --embedding"
    if some(MODELS):
        return None
    return next((what for parts, what in PARTS if some(parts)), None)


def quantization(header: Header) -> str | None:
    """Why quantized weights cannot be used, as the end of a sentence; None if they are not.

    Plain fp8 without scales is supported, because its numbers are the weights.
    """
    for marks, what in ((SCALED, "fp8 with scales"), (BITSANDBYTES, "bitsandbytes")):
        if any(mark in name for name in header for mark in marks):
            return f"has quantized weights ({what}), which are not supported; {UNQUANTIZED}"
    whole = [n for n, t in header.items() if t["dtype"] in ("U8", "I8") and len(t["shape"]) > 1]
    if whole:
        dtype = header[min(whole)]["dtype"]
        return f"has quantized weights ({dtype}), which are not supported; {UNQUANTIZED}"
    return None


def _is_token(name: str) -> bool:
    return name.startswith("<") and name.endswith(">")
