"""Stage 2: text encoder and UNet, on latents of the trained VAE.

Noise prediction with min-SNR weights (Hang et al. 2023, gamma 5). A tenth of the captions is
replaced by the empty one for classifier-free guidance. Captions are never shortened or reordered:
the model learns from their order which colour belongs to which object.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from torch import Tensor

from demo.random_checkpoint import SD_SCHEDULER
from demo.training.trainer import generator

GAMMA = 5.0
DROPPED_CAPTIONS = 0.1

SCHEDULER: Any = DDPMScheduler.from_config(SD_SCHEDULER)


class NoiseBatch(NamedTuple):
    """Latents and noise, float32 [B, 4, h, w], timesteps, int64 [B], and tokens, int64 [B, 77]."""

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    tokens: Tensor


@dataclass(frozen=True)
class LatentPairs:
    """Latents, float16 [N, 4, h, w], with the tokens of their captions, int64 [N, 77].

    `empty` are the tokens of the empty caption, [1, 77].
    """

    latents: Tensor
    tokens: Tensor
    empty: Tensor

    def draw(self, count: int, generator: torch.Generator) -> NoiseBatch:
        """Return a random batch."""
        rows = torch.randint(len(self.latents), (count,), generator=generator)
        dropped = torch.rand(count, generator=generator) < DROPPED_CAPTIONS
        return self._noised(rows, dropped, generator)

    def _noised(self, rows: Tensor, dropped: Tensor, generator: torch.Generator) -> NoiseBatch:
        """Add noise at timesteps that are spread evenly over the batch."""
        count, steps = len(rows), SCHEDULER.config.num_train_timesteps
        spread = (torch.arange(count) + torch.rand(count, generator=generator)) / count
        latents = self.latents[rows].float()
        return NoiseBatch(
            latents,
            torch.randn(latents.shape, generator=generator),
            (spread * steps).long().clamp_(max=steps - 1),
            torch.where(dropped[:, None], self.empty, self.tokens[rows]),
        )

    @torch.inference_mode()
    def mean_loss(self, model: Any, device: torch.device, *, bf16: bool, batch: int = 64) -> float:
        """Return the mean loss over all pairs with fixed noise and timesteps, for held-out data."""
        losses = []
        for i in range(0, len(self.latents), batch):
            rows = torch.arange(i, min(i + batch, len(self.latents)))
            noised = self._noised(rows, torch.zeros(len(rows)) > 0, generator(0, "held out", i))
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                losses.append(_losses(model, NoiseBatch(*(t.to(device) for t in noised))).cpu())
        return float(torch.cat(losses).mean())


def noise_loss(model: Any, batch: NoiseBatch) -> Tensor:
    """Return the scalar loss."""
    return _losses(model, batch).mean()


def _losses(model: Any, batch: NoiseBatch) -> Tensor:
    """Return the weighted squared error of each example, float32 [B]."""
    noisy = SCHEDULER.add_noise(batch.latents, batch.noise, batch.timesteps)
    predicted = model(noisy, batch.timesteps, batch.tokens)
    snr = compute_snr(SCHEDULER, batch.timesteps)
    errors = (predicted - batch.noise).square().mean((1, 2, 3))
    losses: Tensor = snr.clamp(max=GAMMA) / snr * errors
    return losses
