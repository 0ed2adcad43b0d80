"""The demo model's networks: their sizes, how they are made, and what their weights weigh.

UNet 8.4 M, VAE 0.95 M and text encoder 0.5 M parameters: together just under 20 MB in fp16. It
knows nothing of training or files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from demo.random_checkpoint import SD_SCHEDULER

LIMIT = 20_000_000
"""Bytes the exported folder may have."""

TRAINING_STEPS = 1000
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
# No attention where the latents are finest: 1,024 tokens would cost as much as all the rest.
# `attention_head_dim` is diffusers' name for the number of heads; few are fast on a CPU.
UNET: dict[str, Any] = {
    "block_out_channels": (64, 112, 160),
    "down_block_types": (_DOWN, _CROSS, _CROSS),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", _UP),
    "layers_per_block": 1,
    "cross_attention_dim": _TEXT_WIDTH,
    "attention_head_dim": 2,
    "norm_num_groups": 16,
}
TEXT: dict[str, Any] = {
    "hidden_size": _TEXT_WIDTH,
    "intermediate_size": 2 * _TEXT_WIDTH,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "projection_dim": _TEXT_WIDTH,
    "max_position_embeddings": 77,
}


def make_vae(size: int) -> Any:
    """A new AutoencoderKL of factor 4 for pictures of `size` pixels."""
    return AutoencoderKL(sample_size=size, **VAE)


class Denoiser(nn.Module):
    """The text encoder and the UNet as one module: they learn together."""

    def __init__(self, size: int, tokens: int) -> None:
        super().__init__()
        self.unet: Any = UNet2DConditionModel(sample_size=size // 4, **UNET)
        ids = {"bos_token_id": tokens - 2, "eos_token_id": tokens - 1, "pad_token_id": tokens - 1}
        self.text: Any = CLIPTextModel(CLIPTextConfig(vocab_size=tokens, **TEXT, **ids))

    def forward(self, noisy: Tensor, times: Tensor, tokens: Tensor) -> Tensor:
        """Predicted noise, float32 [B, 4, h, w], of noisy latents, int64 [B] and [B, 77]."""
        words = self.text(tokens).last_hidden_state
        noise: Tensor = self.unet(noisy, times, words).sample
        return noise.float()


def use_plain_attention(vae: Any = None, denoiser: Denoiser | None = None) -> None:
    """Attention by matrix products and a softmax: trains the denoiser 1.5 times as fast on a CPU.

    PyTorch 2.13's fused attention spends a third of a step in its own backward pass there. Nothing
    of this is saved with the weights.
    """
    if vae is not None:
        vae.set_attn_processor(AttnProcessor())
    if denoiser is not None:
        denoiser.unet.set_attn_processor(AttnProcessor())
        denoiser.text.set_attn_implementation("eager")


def alphas(device: torch.device) -> Tensor:
    """Cumulative products of Stable Diffusion's `scaled_linear` schedule, float32 [1000]."""
    first, last = SD_SCHEDULER["beta_start"] ** 0.5, SD_SCHEDULER["beta_end"] ** 0.5
    betas = torch.linspace(first, last, TRAINING_STEPS, dtype=torch.float64).square()
    return (1 - betas).cumprod(0).float().to(device)


def parameters(module: nn.Module) -> int:
    """How many numbers a network learns."""
    return sum(p.numel() for p in module.parameters())


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of each latent channel, float32 [4]."""

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, latents: Tensor) -> Spread:
        flat = latents.float().transpose(0, 1).flatten(1)
        return cls(flat.mean(1), flat.std(1))


@torch.no_grad()
def fold(vae: Any, spread: Spread) -> None:
    """Make the VAE's latents have mean 0 and deviation 1 in each channel, with the same pictures.

    Stable Diffusion can only scale latents as a whole, so the channels' statistics go into the two
    1x1 convolutions beside the latents.
    """
    into, out, n = vae.quant_conv, vae.post_quant_conv, len(spread.mean)
    mean, std = spread.mean.to(into.weight.device), spread.std.to(into.weight.device)
    into.weight[:n] /= std.view(n, 1, 1, 1)
    into.bias[:n] = (into.bias[:n] - mean) / std
    into.bias[n:] -= 2 * std.log()  # the posterior's log variance
    out.bias += (out.weight * mean.view(1, n, 1, 1)).sum((1, 2, 3))
    out.weight *= std.view(1, n, 1, 1)
