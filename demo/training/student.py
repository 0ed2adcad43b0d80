"""The few-step LoRA: it predicts the end of the teacher's sampling in one step, at any noise level.

The LoRA changes the UNet only. The loss is the mean absolute error of the clean latent, made smooth
at 0 (pseudo-Huber, as for consistency models: Song and Dhariwal 2023, arXiv 2310.14189).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from demo.training.networks import Denoiser
from demo.training.teacher import Pairs, to_clean
from engine.loader import quiet

RANK = 32
SMOOTH = 1e-3
"""Errors below this count as squares."""


class PairBatch(NamedTuple):
    """Inputs and answers, float32 [B, 4, h, w]; timesteps [B] and tokens [B, 77] are int64."""

    noisy: Tensor
    timesteps: Tensor
    clean: Tensor
    tokens: Tensor


def add_lora(denoiser: Denoiser) -> None:
    """Freeze the denoiser and add a LoRA to every linear layer and convolution of its UNet."""
    from peft import LoraConfig

    denoiser.requires_grad_(False)
    kinds = (nn.Linear, nn.Conv2d)
    layers = [name for name, layer in denoiser.unet.named_modules() if isinstance(layer, kinds)]
    denoiser.unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=layers))


def draw_pairs(pairs: Pairs, count: int, generator: torch.Generator) -> PairBatch:
    """Return a random batch whose timesteps are spread evenly over all noise levels."""
    spread = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    wanted = (spread * int(pairs.timesteps[-1])).long()
    # Some pairs around the wanted timestep; many inputs share a timestep or have a close one.
    first = torch.searchsorted(pairs.timesteps, wanted)
    near = max(1, len(pairs.timesteps) // 50)
    rows = first + torch.randint(-near, near + 1, (count,), generator=generator)
    rows = rows.clamp(0, len(pairs.timesteps) - 1)
    start = pairs.start[rows]
    return PairBatch(
        pairs.noisy[rows].float(),
        pairs.timesteps[rows],
        pairs.clean[start].float(),
        pairs.tokens[start],
    )


def pair_loss(model: Any, batch: PairBatch) -> Tensor:
    """Return the scalar loss."""
    eps = model(batch.noisy, batch.timesteps, batch.tokens)
    error = to_clean(batch.noisy, eps, batch.timesteps) - batch.clean
    loss: Tensor = ((error.square() + SMOOTH**2).sqrt() - SMOOTH).mean()
    return loss


def write_lora(folder: Path, unet: Any) -> None:
    """Write the UNet's LoRA in fp16 into a folder, in diffusers' format."""
    from diffusers import StableDiffusionPipeline
    from peft.utils import get_peft_model_state_dict

    state = {k: v.detach().cpu().half() for k, v in get_peft_model_state_dict(unet).items()}
    with quiet():
        StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=state)
