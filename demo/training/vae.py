"""Stage 1: the autoencoder.

The loss is L1 on the picture, L1 on its Laplacian pyramid and a small KL term. Plain L1 gives soft
edges; the pyramid weights every octave of detail without a second network.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from demo.scenes import Pixels
from demo.training import TrainingError
from demo.training.data import to_floats
from demo.training.hardware import Hardware
from demo.training.trainer import Draw

KL_WEIGHT = 3e-4
"""Weight of the mean KL per latent value; keeps the latents near unit variance without blur."""

OCTAVES = 3


class VaeBatch(NamedTuple):
    """Pictures, float32 [B, 3, H, W] in -1..1, and noise, float32 [B, 4, H/4, W/4]."""

    pictures: Tensor
    noise: Tensor


def vae_batches(images: Pixels) -> Draw:
    """Return a function that draws random batches from uint8 [N, H, W, 3]."""

    def draw(count: int, generator: torch.Generator) -> VaeBatch:
        rows = torch.randint(len(images), (count,), generator=generator)
        side = images.shape[1] // 4
        noise = torch.randn((count, 4, side, side), generator=generator)
        return VaeBatch(to_floats(images[rows.numpy()]), noise)

    return draw


def vae_loss(vae: Any, batch: VaeBatch) -> Tensor:
    """Return the scalar loss."""
    posterior = vae.encode(batch.pictures).latent_dist
    mean, logvar = posterior.mean.float(), posterior.logvar.float()
    decoded = vae.decode(mean + (0.5 * logvar).exp() * batch.noise).sample.float()
    error = decoded - batch.pictures
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    loss: Tensor = error.abs().mean() + pyramid_l1(error) + KL_WEIGHT * kl
    return loss


def pyramid_l1(error: Tensor) -> Tensor:
    """Return the sum over octaves of the mean absolute Laplacian band of the error."""
    total = error.new_zeros(())
    for _ in range(OCTAVES):
        low = F.avg_pool2d(error, 2)
        total = total + (error - F.interpolate(low, scale_factor=2.0)).abs().mean()
        error = low
    return total


@torch.inference_mode()
def encode(vae: Any, images: Pixels, hardware: Hardware) -> Tensor:
    """Return the modes of the posteriors, unscaled, float32 [N, 4, H/4, W/4] on the CPU."""
    latents = []
    for i in range(0, len(images), 64):
        with torch.autocast(hardware.device.type, torch.bfloat16, enabled=hardware.bf16):
            mode = vae.encode(to_floats(images[i : i + 64]).to(vae.device)).latent_dist.mode()
        latents.append(mode.float().cpu())
    return torch.cat(latents).contiguous()


@torch.inference_mode()
def decode(vae: Any, latents: Tensor) -> Pixels:
    """Return the pictures of unscaled latents, uint8 [N, H, W, 3]."""
    pictures = []
    for part in latents.split(32):
        decoded = vae.decode(part.to(vae.device)).sample.clamp(-1, 1)
        pictures.append(decoded.add(1).mul(127.5).round().permute(0, 2, 3, 1).cpu().numpy())
    return np.concatenate(pictures).astype(np.uint8)


def round_trip(vae: Any) -> Callable[[Pixels], Pixels]:
    """Return a function that encodes and decodes pictures in fp32."""
    hardware = Hardware(vae.device, bf16=False)
    return lambda images: decode(vae, encode(vae, images, hardware))


def psnr(images: Pixels, decoded: Pixels) -> float:
    """Return the mean PSNR over the pictures in dB."""
    error = np.square(decoded.astype(np.float64) - images).mean((1, 2, 3)).clip(1e-3)
    return float((10 * np.log10(255**2 / error)).mean())


def load_vae(folder: Path, device: torch.device) -> Any:
    """Load the VAE of the checkpoint in `folder` in fp32; TrainingError if it has none."""
    from diffusers import AutoencoderKL

    if not (folder / "vae" / "config.json").is_file():
        raise TrainingError(f"{folder} has no vae in diffusers' format; pass another checkpoint")
    vae: Any = AutoencoderKL.from_pretrained(folder / "vae", local_files_only=True)
    return vae.float().to(device).eval()


@torch.no_grad()
def normalize_latents(vae: Any, latents: Tensor) -> Tensor:
    """Change the VAE so that its latents have mean 0 and deviation 1 in each channel; return
    `latents`, which it encoded before, in the new scale.

    Stable Diffusion scales all channels by one factor, so the statistics go into the 1x1
    convolutions before and after the latents. The decoded pictures do not change.
    """
    channels = latents.float().transpose(0, 1).flatten(1)
    mean, std = channels.mean(1), channels.std(1)
    before, after, n = vae.quant_conv, vae.post_quant_conv, len(mean)
    shift, scale = mean.to(vae.device), std.to(vae.device)
    before.weight[:n] /= scale.view(n, 1, 1, 1)
    before.bias[:n] = (before.bias[:n] - shift) / scale
    before.bias[n:] -= 2 * scale.log()  # the log variance of the posterior
    after.bias += (after.weight * shift.view(1, n, 1, 1)).sum((1, 2, 3))
    after.weight *= scale.view(1, n, 1, 1)
    vae.register_to_config(scaling_factor=1.0)
    return (latents - mean.view(1, n, 1, 1)) / std.view(1, n, 1, 1)
