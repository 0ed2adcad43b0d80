"""Combine the outputs of a family's text networks to the denoiser's conditioning for one text.

One function per family; each follows `encode_prompt` of the family's pipeline in diffusers. Tensors
have no batch axis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from engine.models import ModelFamily

Outputs = Sequence[tuple[Tensor, ...]]
"""One tuple per text network, in the order of the family's networks."""
Combine = Callable[[ModelFamily, Outputs], tuple[Tensor, ...]]


def combine(family: ModelFamily, outputs: Outputs, *, is_empty: bool) -> tuple[Tensor, ...]:
    """Return the conditioning of one text; zeros for the empty text if the checkpoint says so."""
    conditioning = COMBINE[family.name](family, outputs)
    if is_empty and family.zero_empty_text:
        return tuple(torch.zeros_like(tensor) for tensor in conditioning)
    return conditioning


def _stable_diffusion(family: ModelFamily, outputs: Outputs) -> tuple[Tensor, ...]:
    """The last hidden state [77, D]."""
    ((embedding,),) = outputs
    return (embedding,)


def _stable_diffusion_xl(family: ModelFamily, outputs: Outputs) -> tuple[Tensor, ...]:
    """Both hidden states side by side [77, 2048], and the pooled one of the second [1280]."""
    (first,), (second, pooled) = outputs
    return torch.cat([first, second], dim=-1), pooled


def _stable_diffusion_3(family: ModelFamily, outputs: Outputs) -> tuple[Tensor, ...]:
    """CLIP's hidden states side by side, padded to T5's width, then T5's [77 + 256, 4096]; both
    pooled states [2048]."""
    (first, first_pooled), (second, second_pooled) = outputs[:2]
    clip = torch.cat([first, second], dim=-1)
    length, width = _embedding_shape(family)
    t5 = outputs[2][0] if len(outputs) > 2 else clip.new_zeros(length - len(clip), width)
    clip = pad(clip, (0, width - clip.shape[-1]))
    return torch.cat([clip, t5]), torch.cat([first_pooled, second_pooled])


def _flux(family: ModelFamily, outputs: Outputs) -> tuple[Tensor, ...]:
    """T5's hidden state [512, 4096], and CLIP's pooled one [768]."""
    (pooled,), (embedding,) = outputs
    return embedding, pooled


def _embedding_shape(family: ModelFamily) -> tuple[int, int]:
    """Tokens and width of the denoiser's embedding."""
    denoiser = next(n.name for n in family.networks if n.role == "denoiser")
    inputs, _ = family.tensors(denoiser, (family.size_multiple,) * 2)
    length, width = next(tensor.shape for tensor in inputs if tensor.name == "embedding")
    return length, width


COMBINE: Mapping[str, Combine] = {
    "stable-diffusion": _stable_diffusion,
    "stable-diffusion-xl": _stable_diffusion_xl,
    "stable-diffusion-3": _stable_diffusion_3,
    "flux": _flux,
}
