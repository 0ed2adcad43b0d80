"""Find numbers that are invalid in the config of any part.

The libraries accept most of them and fail when the network runs, or silently compute wrong results.
`engine.network_check` finds numbers that do not fit each other. Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from engine.models.reading import number, whole

COUNTS = frozenset(
    (
        *("in_channels", "out_channels", "latent_channels", "block_out_channels", "sample_size"),
        *("layers_per_block", "transformer_layers_per_block", "norm_num_groups", "patch_size"),
        *(
            "attention_head_dim",
            "num_attention_heads",
            "num_heads",
            "num_layers",
            "num_hidden_layers",
        ),
        *("cross_attention_dim", "joint_attention_dim", "pooled_projection_dim"),
        *("caption_projection_dim", "addition_time_embed_dim", "axes_dims_rope"),
        *("projection_class_embeddings_input_dim", "pos_embed_max_size", "projection_dim"),
        *("hidden_size", "intermediate_size", "max_position_embeddings", "vocab_size"),
        *("d_model", "d_kv", "d_ff", "relative_attention_num_buckets"),
        *("relative_attention_max_distance", "conv_in_kernel", "conv_out_kernel"),
    )
)
"""Keys of whole numbers above 0, single or one per level. None means the library's default."""
EPSILONS = ("norm_eps", "layer_norm_eps", "layer_norm_epsilon")
MAX_EPSILON = 0.1
"""The published models have 1e-5 and 1e-6. With a large value a layer returns almost zeros."""
FACTORS = ("scaling_factor", "mid_block_scale_factor", "resnet_out_scale_factor")
MAX_LEVELS = 7
"""Levels of an autoencoder; 7 have cells of 64 pixels. The published models have 4."""


MAX_SIDE = 8192


def value_problem(config: Mapping[str, Any]) -> str | None:
    """The first impossible number of a config as a clause, or None."""
    try:
        for key in sorted(COUNTS & config.keys()):
            for item in () if config[key] is None else numbers(config[key]):
                whole({key: item}, key)
        if max(numbers(config.get("sample_size") or 1)) > MAX_SIDE:
            return f"sample_size is {config['sample_size']!r}, but must be at most {MAX_SIDE}"
        for key in EPSILONS:
            if not 0 < number(config, key, 1e-5) <= MAX_EPSILON:
                return f"{key} is {config[key]!r}, but must be above 0 and at most {MAX_EPSILON}"
        for key in FACTORS:
            if number(config, key, 1) <= 0:
                return f"{key} is {config[key]!r}, but must be above 0"
    except ValueError as error:
        return str(error)
    return None


def autoencoder_problem(config: Mapping[str, Any]) -> str | None:
    """The problem of an autoencoder that no family supports, as a clause, or None."""
    levels = config.get("block_out_channels")
    if not isinstance(levels, list) or not levels:
        return "block_out_channels is missing"
    if len(levels) > MAX_LEVELS:
        return f"block_out_channels has {len(levels)} levels, but at most {MAX_LEVELS} are known"
    if (whole(config, "in_channels", 3), whole(config, "out_channels", 3)) != (3, 3):
        return "its pictures do not have 3 channels"
    if any(config.get(key) is not None for key in ("latents_mean", "latents_std")):
        return "it normalizes its latents (latents_mean, latents_std), as that of Playground 2.5"
    return None


def numbers(value: Any) -> Iterator[Any]:
    """The numbers of a value that may be one number or nested lists."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from numbers(item)
    else:
        yield value
