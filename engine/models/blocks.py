"""Code that families share: autoencoders with a scaling and a shift, CLIP and T5 text encoders.

Standard library only: the call functions are duck-typed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.models.family import Configs, TextInput
from engine.netspec import Size, TensorSpec

TIMESTEP = TensorSpec("timestep", ())
LORA_DENOISER = ("lora_unet_", "lora_transformer_", "model.diffusion_model.", "diffusion_model.")
LORA_CLIP_L = ("lora_te_", "lora_te1_", "text_encoders.clip_l.transformer.")
LORA_CLIP_G = ("lora_te2_", "text_encoders.clip_g.transformer.")
LORA_T5 = ("lora_te3_", "text_encoders.t5xxl.transformer.")
"""Prefixes of a part's layers in LoRA files of kohya, OneTrainer, ai-toolkit and ComfyUI."""


def encode_image(module: Any, dtype: Any, image: Any) -> Any:
    """`AutoencoderKL`: the mode of the latent distribution, shifted and scaled."""
    mode = module.encode(image.to(dtype)).latent_dist.mode().float()
    shift = module.config.shift_factor
    return (mode - shift if shift else mode) * module.config.scaling_factor


def decode_latent(module: Any, dtype: Any, latent: Any) -> Any:
    """`AutoencoderKL`: the inverse of `encode_image`."""
    scaled, shift = latent / module.config.scaling_factor, module.config.shift_factor
    return module.decode((scaled + shift if shift else scaled).to(dtype)).sample.float()


def second_last_layer(module: Any, dtype: Any, input_ids: Any) -> Any:
    """`CLIPTextModel`: the hidden states before its last layer."""
    return module(input_ids, output_hidden_states=True).hidden_states[-2].float()


def second_last_and_pooled(module: Any, dtype: Any, input_ids: Any) -> Any:
    """`CLIPTextModelWithProjection`: the states before its last layer, and the projection."""
    out = module(input_ids, output_hidden_states=True)
    return out.hidden_states[-2].float(), out.text_embeds.float()


def last_layer(module: Any, dtype: Any, input_ids: Any) -> Any:
    """`CLIPTextModel` or `T5EncoderModel`: the last hidden states."""
    return module(input_ids)[0].float()


def pooled(module: Any, dtype: Any, input_ids: Any) -> Any:
    """`CLIPTextModel`: the last hidden state of the end token."""
    return module(input_ids).pooler_output.float()


def takes_guidance(configs: Configs) -> bool:
    """Whether the U-Net takes the guidance scale as an input, as distilled LCM does."""
    return configs.get("unet", {}).get("time_cond_proj_dim") is not None


def guidance_input(configs: Configs) -> tuple[TensorSpec, ...]:
    """The U-Net's input for the guidance scale, if it has one."""
    return (TensorSpec("guidance", ()),) if takes_guidance(configs) else ()


def guidance_embedding(module: Any, dtype: Any, guidance: Any) -> Any:
    """`UNet2DConditionModel`: the embedding of the guidance scale that is added to the timestep's.

    Sine and cosine of 1000 (guidance - 1) at `time_cond_proj_dim` / 2 frequencies (Luo et al. 2023,
    "Latent Consistency Models", section 4.2). `guidance` is float32 [B], or None without one.
    """
    if guidance is None:
        return None
    size = module.config.time_cond_proj_dim
    half = size // 2
    octave = guidance.new_full((), 10000.0).log() / (half - 1)
    place = guidance.new_ones(size).cumsum(0) - 1  # 0, 1, ...; no copy from the host
    late, used = (place >= half).to(guidance.dtype), (place < 2 * half).to(guidance.dtype)
    angles = (guidance[:, None] - 1.0) * 1000.0 * ((place - half * late) * -octave).exp()
    return (angles.sin() * (1 - late) + angles.cos() * late * used).to(dtype)


def clip_input(network: str, tokenizer: str, config: Mapping[str, Any]) -> TextInput:
    """The input of a CLIP text encoder with this config: 77 tokens for the published ones."""
    length = int(config.get("max_position_embeddings", 77))
    return TextInput(network, tokenizer, "clip", length, int(config.get("vocab_size", 49408)))


def t5_input(network: str, tokenizer: str, config: Mapping[str, Any], length: int) -> TextInput:
    """The input of a T5 text encoder, which has no fixed length of its own."""
    return TextInput(network, tokenizer, "t5", length, int(config.get("vocab_size", 32128)))


def vae_factor(configs: Configs) -> int:
    """Pixels per latent cell along one side: 8 for the published checkpoints."""
    return int(2 ** (len(configs["vae"]["block_out_channels"]) - 1))


def vae_channels(configs: Configs) -> int:
    """Latent channels: 4 or 16 for the published checkpoints."""
    return int(configs["vae"].get("latent_channels", 4))


def picture(size: Size) -> TensorSpec:
    """A picture of `size`, (height, width) in pixels."""
    return TensorSpec("image", (3, *size))


def latent(configs: Configs, size: Size, name: str = "latent") -> TensorSpec:
    """The latent of a picture of `size`."""
    factor = vae_factor(configs)
    return TensorSpec(name, (vae_channels(configs), size[0] // factor, size[1] // factor))


def picture_size(network: str, shape: tuple[int, ...], scale: int) -> Size:
    """The picture size of rows [C, h, w] whose cells have `scale` pixels. Raises ValueError."""
    if len(shape) != 3:
        raise ValueError(f"the {network} takes three axes, not {shape}")
    return shape[1] * scale, shape[2] * scale


def first(value: Any) -> int:
    """The first number of a config value that is one number or a number per level."""
    return int(value[0] if isinstance(value, list | tuple) else value)
