"""The smallest checkpoint, "micro": one block of each kind of layer. It exports in a second."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from demo import random_checkpoint

MICRO: dict[str, Any] = {
    "unet": {
        "sample_size": 8,
        "block_out_channels": (8,),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D",),
        "up_block_types": ("UpBlock2D",),
        "mid_block_type": None,
        "cross_attention_dim": 16,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    },
    "vae": {
        "block_out_channels": (4, 4),
        "layers_per_block": 1,
        "norm_num_groups": 2,
        "sample_size": 16,
        "mid_block_add_attention": False,
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "latent_channels": 4,
    },
    "text_encoder": {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "projection_dim": 16,
        "max_position_embeddings": 77,
    },
    "scheduler": random_checkpoint.SD_SCHEDULER,
}


def make_micro(folder: Path, *, unet: dict[str, Any] | None = None, **options: Any) -> Path:
    """Write the checkpoint, with changes to the U-Net's config; `options` of `make`."""
    with kind("micro", {**MICRO, "unet": {**MICRO["unet"], **(unet or {})}}):
        return random_checkpoint.make(folder, "micro", **options)


@contextmanager
def kind(name: str, configs: dict[str, Any]) -> Iterator[None]:
    """A further kind of random checkpoint, within the block."""
    random_checkpoint.KINDS[name] = configs
    try:
        yield
    finally:
        del random_checkpoint.KINDS[name]
