"""Call each family's own modules, one example at a time, for the reference.

Three things differ between families: the conditioning of a text, a prediction, and the denoiser's
inputs that depend on the request. They are written from diffusers' pipelines and share no code with
`engine.models` or `diffedit.conditioning`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

Conditioning = tuple[Tensor, ...]


@dataclass(frozen=True)
class ReferenceModel:
    """The modules of one checkpoint in fp32, and how they are called; the batch axis is 1.

    Attributes:
        vae: the autoencoder.
        embed: token ids of one text, one [1, T] per text encoder -> its conditioning.
        predict: (latent, timestep, conditioning, guidance scale) -> the raw prediction.
        embeds_guidance: the guidance scale is an input of the denoiser.
    """

    vae: Any
    embed: Callable[[Sequence[Tensor]], Conditioning]
    predict: Callable[[Tensor, Tensor, Conditioning, float], Tensor]
    embeds_guidance: bool = False

    def encode(self, image: Tensor) -> Tensor:
        """x_0 of a picture [1, 3, H, W] in [-1, 1]."""
        config = self.vae.config
        mode: Tensor = self.vae.encode(image).latent_dist.mode()
        x0: Tensor = (mode - (config.shift_factor or 0)) * config.scaling_factor
        return x0

    def decode(self, latent: Tensor) -> Tensor:
        """The picture of a latent."""
        config = self.vae.config
        scaled = latent / config.scaling_factor + (config.shift_factor or 0)
        image: Tensor = self.vae.decode(scaled).sample
        return image


def stable_diffusion(modules: Mapping[str, Any]) -> ReferenceModel:
    """Stable Diffusion 1.x and 2.x."""
    unet = modules["unet"]

    def embed(ids: Sequence[Tensor]) -> Conditioning:
        return (modules["text_encoder"](ids[0]).last_hidden_state,)

    def predict(x: Tensor, t: Tensor, text: Conditioning, guidance: float) -> Tensor:
        out: Tensor = unet(x, t, text[0], timestep_cond=lcm_guidance(unet, guidance)).sample
        return out

    return ReferenceModel(modules["vae"], embed, predict, _is_lcm(unet))


def lcm_guidance(unet: Any, guidance: float) -> Tensor | None:
    """The guidance embedding of a distilled LCM's U-Net; None for other U-Nets."""
    size = unet.config.time_cond_proj_dim
    if size is None:
        return None
    half = size // 2
    step = torch.log(torch.tensor(10000.0)) / (half - 1)
    angles = torch.tensor(guidance - 1) * 1000 * torch.exp(torch.arange(half).float() * -step)
    return pad(torch.cat([angles.sin(), angles.cos()]), (0, size % 2))[None]


def _is_lcm(unet: Any) -> bool:
    return unet.config.time_cond_proj_dim is not None


def stable_diffusion_xl(modules: Mapping[str, Any], empty: Sequence[Tensor]) -> ReferenceModel:
    """Stable Diffusion XL. `empty` is the empty text, whose conditioning is zeros."""
    unet = modules["unet"]

    def embed(ids: Sequence[Tensor]) -> Conditioning:
        first = modules["text_encoder"](ids[0], output_hidden_states=True)
        second = modules["text_encoder_2"](ids[1], output_hidden_states=True)
        hidden = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1)
        if all(a.equal(b) for a, b in zip(ids, empty, strict=True)):
            return torch.zeros_like(hidden), torch.zeros_like(second.text_embeds)
        return hidden, second.text_embeds

    def predict(x: Tensor, t: Tensor, text: Conditioning, guidance: float) -> Tensor:
        cell = 2 ** (len(modules["vae"].config.block_out_channels) - 1)
        height, width = x.shape[2] * cell, x.shape[3] * cell
        time_ids = torch.tensor([[height, width, 0, 0, height, width]]).float()
        added = {"text_embeds": text[1], "time_ids": time_ids}
        told = lcm_guidance(unet, guidance)
        out: Tensor = unet(x, t, text[0], timestep_cond=told, added_cond_kwargs=added).sample
        return out

    return ReferenceModel(modules["vae"], embed, predict, _is_lcm(unet))


def stable_diffusion_3(modules: Mapping[str, Any]) -> ReferenceModel:
    """Stable Diffusion 3 and 3.5, with or without T5."""
    width = modules["transformer"].config.joint_attention_dim

    def embed(ids: Sequence[Tensor]) -> Conditioning:
        first = modules["text_encoder"](ids[0], output_hidden_states=True)
        second = modules["text_encoder_2"](ids[1], output_hidden_states=True)
        clip = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1)
        clip = pad(clip, (0, width - clip.shape[-1]))
        t5 = torch.zeros(1, 256, width)
        if "text_encoder_3" in modules:
            t5 = modules["text_encoder_3"](ids[2]).last_hidden_state
        return torch.cat([clip, t5], 1), torch.cat([first.text_embeds, second.text_embeds], -1)

    def predict(x: Tensor, t: Tensor, text: Conditioning, guidance: float) -> Tensor:
        out: Tensor = modules["transformer"](x, text[0], text[1], t).sample
        return out

    return ReferenceModel(modules["vae"], embed, predict)


def flux(modules: Mapping[str, Any]) -> ReferenceModel:
    """FLUX.1 dev and schnell."""
    transformer = modules["transformer"]
    embeds_guidance = bool(transformer.config.guidance_embeds)

    def embed(ids: Sequence[Tensor]) -> Conditioning:
        pooled = modules["text_encoder"](ids[0]).pooler_output
        return modules["text_encoder_2"](ids[1]).last_hidden_state, pooled

    def predict(x: Tensor, t: Tensor, text: Conditioning, guidance: float) -> Tensor:
        _, channels, height, width = x.shape
        rows, columns = height // 2, width // 2
        patches = x.view(1, channels, rows, 2, columns, 2).permute(0, 2, 4, 1, 3, 5)
        positions = torch.zeros(rows, columns, 3)
        positions[..., 1] += torch.arange(rows)[:, None]
        positions[..., 2] += torch.arange(columns)[None, :]
        out: Tensor = transformer(
            hidden_states=patches.reshape(1, rows * columns, channels * 4),
            encoder_hidden_states=text[0],
            pooled_projections=text[1],
            timestep=t / 1000,
            img_ids=positions.view(-1, 3),
            txt_ids=torch.zeros(text[0].shape[1], 3),
            guidance=torch.tensor([guidance]) if embeds_guidance else None,
        ).sample
        patches = out.view(1, rows, columns, channels, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return patches.reshape(x.shape)

    return ReferenceModel(modules["vae"], embed, predict, embeds_guidance)


def reference_model(
    family: str, modules: Mapping[str, Any], empty: Sequence[Tensor]
) -> ReferenceModel:
    """The model of a family by its name. `empty` is the token ids of the empty text."""
    if family == "stable-diffusion-xl":
        return stable_diffusion_xl(modules, empty)
    others = {
        "stable-diffusion": stable_diffusion,
        "stable-diffusion-3": stable_diffusion_3,
        "flux": flux,
    }
    return others[family](modules)
