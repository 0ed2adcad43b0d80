"""Stage 2: text encoder and UNet, together, on latents of the frozen VAE.

Noise prediction with min-SNR weights (Hang et al. 2023, gamma 5); a tenth of the captions are
dropped for guidance. Captions are always whole and in order: one that left an object out would
teach that what is not asked for appears as well, and one in another order would take away the cue
(first is left) that binds a colour to its object. It knows nothing of pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from demo.networks import TRAINING_STEPS, alphas
from demo.random_checkpoint import SD_SCHEDULER
from demo.train_loop import Training, generator

GAMMA = 5.0
DROPPED = 0.1


@dataclass(frozen=True)
class Pairs:
    """Scaled latents, float32 [N, 4, h, w], and caption tokens, int64 [N, 77]; `empty` [1, 77]."""

    latents: Tensor
    tokens: Tensor
    empty: Tensor

    def to(self, device: torch.device) -> Pairs:
        return Pairs(self.latents.to(device), self.tokens.to(device), self.empty.to(device))


class NoiseLoss:
    """The loss of a step's own batch of the pool."""

    def __init__(self, pairs: Pairs, device: torch.device, half: bool) -> None:
        self.pairs, self.device, self.half = pairs.to(device), device, half
        self.alphas = alphas(device)

    def __call__(self, training: Training) -> Tensor:
        draw, count = training.generator(), training.plan.batch
        rows = torch.randint(len(self.pairs.latents), (count,), generator=draw)
        dropped = torch.rand(count, generator=draw) < DROPPED
        return self._loss(training.model, self.pairs, rows, dropped, draw).mean()

    def _loss(
        self, model: Any, pairs: Pairs, rows: Tensor, dropped: Tensor, draw: torch.Generator
    ) -> Tensor:
        """Weighted squared errors, float32 [B]; the levels of a batch are spread evenly."""
        spread = (torch.arange(len(rows)) + torch.rand(len(rows), generator=draw)) / len(rows)
        times = (spread * TRAINING_STEPS).long().clamp_(max=TRAINING_STEPS - 1).to(self.device)
        rows = rows.to(self.device)
        clean = pairs.latents[rows]
        noise = torch.randn(tuple(clean.shape), generator=draw).to(self.device)
        words = torch.where(dropped.to(self.device)[:, None], pairs.empty, pairs.tokens[rows])
        kept = self.alphas[times]
        noisy = kept.sqrt().view(-1, 1, 1, 1) * clean + (1 - kept).sqrt().view(-1, 1, 1, 1) * noise
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            guess = model(noisy, times, words)
        ratio = kept / (1 - kept)
        weights = ratio.clamp(max=GAMMA) / ratio
        losses: Tensor = weights * (guess - noise).square().mean((1, 2, 3))
        return losses

    @torch.inference_mode()
    def held_out(self, model: Any, pairs: Pairs, batch: int = 64) -> float:
        """The mean loss on pairs no step has seen, at fixed levels and noises."""
        pairs, losses = pairs.to(self.device), []
        for i in range(0, len(pairs.latents), batch):
            rows = torch.arange(i, min(i + batch, len(pairs.latents)))
            draw = generator(0, "held out", i)
            none = torch.zeros(len(rows), dtype=torch.bool)
            losses.append(self._loss(model, pairs, rows, none, draw).float().cpu())
        return float(torch.cat(losses).mean())


@torch.inference_mode()
def sample(
    model: Any, tokens: Tensor, empty: Tensor, size: int, *, guidance: float = 5.0, steps: int = 25
) -> Tensor:
    """Scaled latents, float32 [N, 4, size, size] on the CPU, drawn by DDIM from fixed noise."""
    device = next(model.parameters()).device
    config = {k: v for k, v in SD_SCHEDULER.items() if not k.startswith("_")}
    config.pop("skip_prk_steps")
    scheduler: Any = DDIMScheduler(**config)
    scheduler.set_timesteps(steps)
    latents = torch.randn((len(tokens), 4, size, size), generator=generator(0, "sheet", 0))
    latents = latents.to(device)
    both = torch.cat([empty.expand_as(tokens), tokens]).to(device)
    for time in scheduler.timesteps:
        times = torch.full((2 * len(tokens),), int(time), device=device)
        plain, asked = model(latents.repeat(2, 1, 1, 1), times, both).chunk(2)
        latents = scheduler.step(plain + guidance * (asked - plain), time, latents).prev_sample
    return latents.cpu()
