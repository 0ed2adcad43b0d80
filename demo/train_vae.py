"""Stage 1: the autoencoder. L1 on the picture and on its Laplacian pyramid, and a little KL.

Plain L1 leaves edges soft; the pyramid asks for each octave of detail by itself, without another
network as judge. It knows nothing of captions.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from demo.drawing import Pixels
from demo.train_data import to_floats
from demo.train_loop import Training, TrainingError

KL = 3e-4
"""Weight of the mean KL per latent value: holds the latents near unit size, blurs nothing."""

LEVELS = 3


def loss(vae: Any, pictures: Tensor, noise: Tensor) -> Tensor:
    """Scalar loss of pictures, float32 [B, 3, H, W] in -1..1; noise: float32 [B, 4, H/4, W/4]."""
    posterior = vae.encode(pictures).latent_dist
    mean, logvar = posterior.mean.float(), posterior.logvar.float()
    seen = vae.decode(mean + (0.5 * logvar).exp() * noise).sample.float()
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    total: Tensor = (seen - pictures).abs().mean() + pyramid(seen - pictures) + KL * kl
    return total


def pyramid(error: Tensor) -> Tensor:
    """Sum over `LEVELS` octaves of the mean absolute band of the error (bands are linear in it)."""
    total = error.new_zeros(())
    for _ in range(LEVELS):
        low = F.avg_pool2d(error, 2)
        total = total + (error - F.interpolate(low, scale_factor=2.0)).abs().mean()
        error = low
    return total


class VaeLoss:
    """The loss of a step's own batch of the pool."""

    def __init__(self, images: Pixels, device: torch.device, half: bool) -> None:
        self.images, self.device, self.half = images, device, half

    def __call__(self, training: Training) -> Tensor:
        draw, size = training.generator(), self.images.shape[1] // 4
        rows = torch.randint(len(self.images), (training.plan.batch,), generator=draw)
        noise = torch.randn((len(rows), 4, size, size), generator=draw).to(self.device)
        pictures = to_floats(self.images[rows.numpy()]).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            return loss(training.model, pictures, noise)


@torch.inference_mode()
def encode(vae: Any, images: Pixels, device: torch.device, half: bool) -> Tensor:
    """The posterior's modes, unscaled, float32 [N, 4, H/4, W/4] on the CPU."""
    found = []
    for i in range(0, len(images), 64):
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            mode = vae.encode(to_floats(images[i : i + 64]).to(device)).latent_dist.mode()
        found.append(mode.float().cpu())
    return torch.cat(found).contiguous()


@torch.inference_mode()
def decode(vae: Any, latents: Tensor, device: torch.device) -> Pixels:
    """Pictures, uint8 [N, H, W, 3], of unscaled latents, in float32."""
    found = []
    for part in latents.split(32):
        seen = vae.decode(part.to(device)).sample.clamp(-1, 1)
        found.append(seen.add(1).mul(127.5).round().permute(0, 2, 3, 1).cpu().numpy())
    return np.concatenate(found).astype(np.uint8)


def psnr(vae: Any, images: Pixels, device: torch.device) -> float:
    """Mean over the pictures of the round trip's PSNR in dB."""
    again = decode(vae, encode(vae, images, device, half=False), device)
    error = np.square(again.astype(np.float64) - images).mean((1, 2, 3)).clip(1e-3)
    return float((10 * np.log10(255**2 / error)).mean())


def round_trip(folder: Path, device: torch.device) -> Callable[[Pixels], Pixels]:
    """Pictures through the VAE of the checkpoint in `folder`; TrainingError if it has none."""
    from diffusers import AutoencoderKL

    if not (folder / "vae" / "config.json").is_file():
        raise TrainingError(f"{folder} has no vae in diffusers' format")
    vae: Any = AutoencoderKL.from_pretrained(folder / "vae", local_files_only=True)
    vae = vae.float().to(device).eval()
    return lambda images: decode(vae, encode(vae, images, device, half=False), device)
