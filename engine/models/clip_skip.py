"""clip_skip: use CLIP's hidden states of an earlier layer than the checkpoint's default.

The count is that of diffusers: 1 skips one more layer than usual. In diffusers' pipelines it
applies to the prompt only; here it applies to every text, because the mask compares two texts.
Standard library only: the call functions are duck-typed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from engine.errors import CheckpointError
from engine.models import blocks
from engine.models.family import ModelFamily


def _last_layer(skip: int, module: Any, dtype: Any, input_ids: Any) -> Any:
    """As Stable Diffusion 1 and 2: an earlier hidden state, through the last normalisation."""
    states = module(input_ids, output_hidden_states=True).hidden_states
    inner = getattr(module, "text_model", module)
    return inner.final_layer_norm(states[-1 - skip]).float()


def _second_last_layer(skip: int, module: Any, dtype: Any, input_ids: Any) -> Any:
    """As SDXL's first encoder: without normalisation."""
    return module(input_ids, output_hidden_states=True).hidden_states[-2 - skip].float()


def _second_last_and_pooled(skip: int, module: Any, dtype: Any, input_ids: Any) -> Any:
    """As SDXL's second encoder and SD 3: the pooled state stays that of the last layer."""
    out = module(input_ids, output_hidden_states=True)
    return out.hidden_states[-2 - skip].float(), out.text_embeds.float()


SKIPPING: Mapping[Any, tuple[Callable[..., Any], int]] = {
    blocks.last_layer: (_last_layer, 1),
    blocks.second_last_layer: (_second_last_layer, 2),
    blocks.second_last_and_pooled: (_second_last_and_pooled, 2),
}
"""Call function -> call function with skipped layers, and the number of layers that it needs if
none is skipped."""


def with_clip_skip(family: ModelFamily, skip: int) -> ModelFamily:
    """Return the family with `skip` more CLIP layers skipped.

    Raises CheckpointError if the family does not use CLIP's hidden states, or CLIP has too few
    layers.
    """
    clip = {text.network for text in family.text_inputs if text.kind == "clip"}
    found = [n for n in family.networks if n.name in clip and n.call in SKIPPING]
    if not found:
        raise CheckpointError(
            f"clip_skip is {skip}, but this model ({family.name}) does not use the hidden layers "
            "of its CLIP text encoder; leave it out."
        )
    for network in found:
        most = int(family.configs[network.part]["num_hidden_layers"]) - SKIPPING[network.call][1]
        if skip > most:
            raise CheckpointError(
                f"clip_skip is {skip}, but the {network.part} of this model can skip at most "
                f"{most}; use a smaller number."
            )
    changed = {n.name: replace(n, call=partial(SKIPPING[n.call][0], skip)) for n in found}
    networks = tuple(changed.get(n.name, n) for n in family.networks)
    bound: Any = family
    skipping: ModelFamily = replace(bound, networks=networks)
    return skipping


def skips(family: ModelFamily, part: str) -> bool:
    """Whether a part's networks skip layers."""
    return any(n.part == part and isinstance(n.call, partial) for n in family.networks)
