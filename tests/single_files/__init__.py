"""Write diffusers checkpoints in the layouts of the original code: LDM, SGM, SD 3 and FLUX.

It is the inverse of what diffusers' single-file loaders do, written from the layouts themselves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.single_files.ldm import UNET, open_clip_to_original, unet_to_ldm, vae_to_ldm
from tests.single_files.transformers import flux_to_original, sd3_to_original

Weights = dict[str, Tensor]
TRANSFORMERS = {"text_encoder": "clip_l", "text_encoder_2": "clip_g", "text_encoder_3": "t5xxl"}


def single_file(folder: Path, path: Path, *, parts: tuple[str, ...] | None = None) -> Path:
    """Write the checkpoint in `folder` (all parts, or some) as one file, in its own dtype."""
    config = _config(folder, "unet" if (folder / "unet").is_dir() else "transformer")
    texts = sorted(p.name for p in folder.glob("text_encoder*"))
    state: Weights = {}
    wanted = parts or (config["part"], "vae", *texts)
    for part in wanted:
        state |= _part(folder, part, texts)
    save_file({n: t.contiguous().clone() for n, t in state.items()}, path)
    return path


def weights(folder: Path, part: str) -> Weights:
    """All tensors of a part's files."""
    found: Weights = {}
    for file in sorted((folder / part).glob("*.safetensors")):
        found |= load_file(file)
    return found


def _config(folder: Path, part: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((folder / part / "config.json").read_text())
    return {**data, "part": part}


def _part(folder: Path, part: str, texts: list[str]) -> Weights:
    own = weights(folder, part)
    if part == "unet":
        return unet_to_ldm(own, _config(folder, part))
    if part == "vae":
        return vae_to_ldm(own, _config(folder, part), "first_stage_model.")
    if part == "transformer":
        convert = (
            sd3_to_original
            if "context_embedder.bias" in own and any(n.startswith("pos_embed.") for n in own)
            else flux_to_original
        )
        return {f"{UNET}{n}": t for n, t in convert(own).items()}
    if (folder / "transformer").is_dir():
        name = TRANSFORMERS[part]
        if len(texts) == 2 and not any("text_model" in n or "embeddings" in n for n in own):
            name = "t5xxl"  # FLUX
        return _prefixed(own, f"text_encoders.{name}.transformer.", clip=name != "t5xxl")
    if len(texts) == 1:
        open_clip = _config(folder, part).get("hidden_act") == "gelu"
        return (
            open_clip_to_original(own, "cond_stage_model.model.")
            if open_clip
            else _prefixed(own, "cond_stage_model.transformer.", clip=True)
        )
    if part == "text_encoder":
        return _prefixed(own, "conditioner.embedders.0.transformer.", clip=True)
    return open_clip_to_original(own, "conditioner.embedders.1.model.")


def _prefixed(own: Mapping[str, Tensor], prefix: str, *, clip: bool) -> Weights:
    """CLIP's tensors have the level `text_model`, whichever version of transformers saved them."""

    def renamed(name: str) -> str:
        bare = clip and not name.startswith(("text_model.", "text_projection"))
        return f"{prefix}{'text_model.' if bare else ''}{name}"

    return {renamed(n): t for n, t in own.items()}
