"""LoRA files for the tiny checkpoint, and the weights that they mean by definition."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.checkpoint import Checkpoint
from engine.loader import load_module
from engine.lora.file import Lora
from engine.lora.fuse import fuse

ATTENTION = "mid_block.attentions.0.transformer_blocks.0.attn1"
UNET_LAYERS = {f"{ATTENTION}.to_q": (64, 64), f"{ATTENTION}.to_out.0": (64, 64)}
TEXT_LAYERS = {
    "encoder.layers.0.self_attn.q_proj": (32, 32),
    "encoder.layers.1.mlp.fc1": (64, 32),
}
CONV = "mid_block.resnets.0.conv1"
"""[64, 64, 3, 3]."""
POINTWISE = "up_blocks.0.resnets.0.conv_shortcut"
"""[64, 128, 1, 1]."""
NORM = "mid_block.resnets.0.norm1"


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) / 4


def kohya(layer: str, prefix: str = "lora_unet_") -> str:
    return prefix + layer.replace(".", "_")


def pair(
    layer: str, rank: int = 2, *, seed: int = 0, alpha: float | None = None
) -> dict[str, Tensor]:
    """A kohya LoRA of one 64 x 64 linear layer."""
    name = kohya(layer)
    state = {
        f"{name}.lora_down.weight": draw(rank, 64, seed=seed),
        f"{name}.lora_up.weight": draw(64, rank, seed=seed + 1),
    }
    return state if alpha is None else state | {f"{name}.alpha": torch.tensor(alpha)}


def saved(path: Path, state: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    save_file({n: t.clone() for n, t in state.items()}, path, metadata=metadata)
    return path


def weights(model: Path, part: str) -> dict[str, Tensor]:
    """The checkpoint's own weights, read from its file."""
    (file,) = (model / part).glob("*.safetensors")
    return {name.removeprefix("text_model."): t for name, t in load_file(file).items()}


def fused(
    model: Path, part: str, *loras: tuple[Path, float], dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """The weights of a part after `fuse`, under the same names."""
    checkpoint = Checkpoint.open(model)
    module = load_module(checkpoint, part, dtype)
    fuse(module, checkpoint, part, [Lora.open(path, scale) for path, scale in loras])
    return {name.removeprefix("text_model."): t for name, t in module.state_dict().items()}


def check_changes(
    model: Path, part: str, got: Mapping[str, Tensor], changes: Mapping[str, Tensor]
) -> None:
    """Every weight is the checkpoint's own plus its change; the others are untouched."""
    own = weights(model, part)
    assert changes.keys() <= own.keys() and changes
    for name, before in own.items():
        if name in changes:
            torch.testing.assert_close(got[name], before + changes[name], rtol=1e-5, atol=1e-6)
            assert (got[name] - before).norm() > 0.01 * changes[name].norm() > 0
        elif name in got:
            assert torch.equal(got[name], before), name
