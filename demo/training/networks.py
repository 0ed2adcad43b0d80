"""The networks of the demo's model: UNet 8.0 M, VAE 0.95 M and text encoder 0.5 M parameters.

In fp16 they take just under 20 MB.
"""

from __future__ import annotations

from typing import Any

from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

SIZE_LIMIT = 20_000_000
"""The maximum size of the exported folder in bytes."""

_TEXT_WIDTH = 128
_CROSS, _DOWN, _UP = "CrossAttnDownBlock2D", "DownBlock2D", "UpBlock2D"

VAE: dict[str, Any] = {
    "block_out_channels": (32, 64, 64),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "latent_channels": 4,
    "layers_per_block": 1,
    "norm_num_groups": 16,
}
# The highest resolution has no attention: its 1,024 tokens would cost as much as all other layers.
# `attention_head_dim` is diffusers' name for the number of heads; few heads are fast on a CPU.
UNET: dict[str, Any] = {
    "block_out_channels": (64, 112, 160),
    "down_block_types": (_DOWN, _CROSS, _CROSS),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", _UP),
    "layers_per_block": 1,
    "cross_attention_dim": _TEXT_WIDTH,
    "attention_head_dim": 2,
    "norm_num_groups": 16,
}
TEXT_ENCODER: dict[str, Any] = {
    "hidden_size": _TEXT_WIDTH,
    "intermediate_size": 2 * _TEXT_WIDTH,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "projection_dim": _TEXT_WIDTH,
    "max_position_embeddings": 77,
}


def make_vae(size: int) -> Any:
    """Return a new AutoencoderKL with a scale factor of 4 for pictures of `size` pixels."""
    return AutoencoderKL(sample_size=size, **VAE)


class Denoiser(nn.Module):
    """The text encoder and the UNet, trained together as one module."""

    def __init__(self, size: int, vocabulary: int) -> None:
        super().__init__()
        self.unet: Any = UNet2DConditionModel(sample_size=size // 4, **UNET)
        end = vocabulary - 1
        ids = {"bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end}
        config = CLIPTextConfig(vocab_size=vocabulary, **TEXT_ENCODER, **ids)
        self.text_encoder: Any = CLIPTextModel(config)

    def forward(self, noisy: Tensor, timesteps: Tensor, tokens: Tensor) -> Tensor:
        """Return the predicted noise, float32 [B, 4, h, w]; timesteps [B] and tokens [B, 77]."""
        embeddings = self.text_encoder(tokens).last_hidden_state
        noise: Tensor = self.unet(noisy, timesteps, embeddings).sample
        return noise.float()


def use_plain_attention(model: Any) -> None:
    """Compute attention by matrix products and a softmax, 1.5 times as fast for training on a CPU.

    The backward pass of PyTorch 2.13's fused attention takes a third of a step there. Saved weights
    and configurations do not change.
    """
    if isinstance(model, Denoiser):
        model.unet.set_attn_processor(AttnProcessor())
        model.text_encoder.set_attn_implementation("eager")
    else:
        model.set_attn_processor(AttnProcessor())


def count_parameters(module: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(p.numel() for p in module.parameters())
