"""A trained model as a folder in diffusers' format, with its model card; whole or not at all.

It knows nothing of how the training went but the facts it is given to print.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from demo.networks import LIMIT, Denoiser, parameters
from demo.random_checkpoint import SD_SCHEDULER, quiet, write_index, write_json
from demo.train_data import Captions
from demo.train_loop import TrainingError

FACTS = "training.json"
"""The file in a checkpoint that keeps the facts of its runs."""


@dataclass(frozen=True)
class Facts:
    """What the model card says of a run."""

    size: int
    scenes: int
    seed: int
    hardware: str
    vae_steps: int
    vae_batch: int
    vae_minutes: float
    vae_loss: float
    psnr: float
    unet_steps: int
    unet_batch: int
    unet_minutes: float
    unet_loss: float
    held_out: float
    before: tuple[dict[str, Any], ...] = ()
    """The runs it went on from, oldest first."""


def export(folder: Path, vae: Any, denoiser: Denoiser, captions: Captions, facts: Facts) -> int:
    """Write the checkpoint in fp16, replacing an older one; returns its bytes.

    `vae.config.scaling_factor` is set already. TrainingError if it is larger than LIMIT or cannot
    be written; then an older one is untouched.
    """
    refuse_foreign(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".export-") as temporary:
            made = Path(temporary) / "made"
            _write(made, vae, denoiser, captions)
            (made / "README.md").write_text(card(facts, parameters(vae), denoiser))
            this = {k: v for k, v in asdict(facts).items() if k != "before"}
            write_json(made / FACTS, {"runs": [*facts.before, this]})
            size = sum(f.stat().st_size for f in made.rglob("*") if f.is_file())
            if size > LIMIT:
                raise TrainingError(f"the checkpoint has {size} bytes; at most {LIMIT} may ship")
            if folder.exists():
                os.replace(folder, Path(temporary) / "old")
            os.replace(made, folder)
    except OSError as error:
        raise TrainingError(f"cannot write {folder}: {error}") from error
    return size


def refuse_foreign(folder: Path) -> None:
    """TrainingError if `folder` holds something that is no checkpoint: it would be replaced."""
    if folder.is_dir() and (folder / "model_index.json").exists():
        return
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise TrainingError(f"{folder} exists and is no checkpoint; name another folder")


def _write(folder: Path, vae: Any, denoiser: Denoiser, captions: Captions) -> None:
    parts = {"vae": vae, "unet": denoiser.unet, "text_encoder": denoiser.text}
    with quiet():
        for name, network in parts.items():
            for key, tensor in network.state_dict().items():
                if not torch.isfinite(tensor.half()).all():
                    raise TrainingError(f"{name}'s {key} does not fit into fp16")
            copy.deepcopy(network).half().save_pretrained(folder / name)
    # transformers loads in the type that the config names, diffusers in float32: let both agree.
    config = folder / "text_encoder" / "config.json"
    write_json(config, {**json.loads(config.read_text()), "dtype": "float32"})
    shutil.copytree(captions.folder, folder / "tokenizer")
    write_json(folder / "scheduler" / "scheduler_config.json", SD_SCHEDULER)
    write_index(folder, str(SD_SCHEDULER["_class_name"]))


def read_facts(folder: Path) -> tuple[dict[str, Any], ...]:
    """The runs a checkpoint came from, oldest first; none where it does not say."""
    try:
        runs = json.loads((folder / FACTS).read_text())["runs"]
    except (OSError, ValueError, KeyError, TypeError):
        return ()
    return tuple(runs)


def digest(folder: Path) -> str:
    """sha256 over a checkpoint's weights; TrainingError if it has none."""
    found = hashlib.sha256()
    for part in ("unet", "vae", "text_encoder"):
        for path in _weights(folder, part):
            found.update(path.read_bytes())
    return found.hexdigest()


def read_weights(folder: Path, part: str, module: torch.nn.Module) -> None:
    """A part's weights into a module; TrainingError if they are missing or of another shape."""
    state: dict[str, torch.Tensor] = {}
    for path in _weights(folder, part):
        state |= load_file(path)
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise TrainingError(
            f"the {part} in {folder} has other shapes than the one that would learn on: "
            f"{str(error).splitlines()[1].strip()}"
        ) from error


def _weights(folder: Path, part: str) -> list[Path]:
    found = sorted((folder / part).glob("*.safetensors"))
    if not found:
        raise TrainingError(f"{folder} has no weights in {part}; name a checkpoint to start from")
    return found


def card(facts: Facts, vae_parameters: int, denoiser: Denoiser) -> str:
    """The model card, Markdown."""
    unet, text = parameters(denoiser.unet), parameters(denoiser.text)
    rows = "\n".join(_row(run) for run in (*facts.before, asdict(facts)))
    return f"""---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---
# Still lifes: the demo model of diffedit-trt

A latent diffusion model in Stable Diffusion 1.x's checkpoint format, small enough to ship with the
project: {facts.size} x {facts.size} pixels, {unet / 1e6:.2f} M parameters in the UNet, \
{vae_parameters / 1e6:.2f} M in the VAE (factor 4, 4 channels),
{text / 1e6:.2f} M in the CLIP text encoder. It draws and edits the scenes of `demo/scenes.py` and \
nothing else.

## What it was trained on
{facts.scenes:,} scenes that the project draws itself (`demo/scenes.py`, seeds 0 to \
{facts.scenes - 1:,}) and their captions; no
photograph, no other data and no other model's weights. Seeds from 1,000,000 up are kept for
evaluation: nothing was trained or chosen by them. The VAE learnt on pictures of half the size (it
is convolutional), text encoder and UNet on the first half of the scenes at the full size.

## How
`python -m demo.train`{", then again with `--from` this model" if facts.before else ""}, on \
{facts.hardware}.

| | seed | steps | batch | minutes | last loss | on scenes never trained on |
|---|---|---|---|---|---|---|
| VAE | {facts.seed if not facts.before else facts.before[0]["seed"]} | {facts.vae_steps:,} \
| {facts.vae_batch} | {facts.vae_minutes:.1f} | {facts.vae_loss:.4f} | PSNR {facts.psnr:.2f} dB |
{rows}

Noise prediction on `scaled_linear` betas (0.00085 to 0.012, 1000 steps), min-SNR weights (gamma 5),
a tenth of the captions dropped for guidance, AdamW with a cosine, EMA; weights stored in fp16.

## Limits
- It knows {facts.size} px pictures of one to three objects, and captions as \
`demo.scenes.describe` writes them
  ("a red ball and a green cube on a wooden table"); other words are spelt in letters it never saw.
- Small and shortly trained: it draws soft edges, and at times gives a colour to the wrong object.
- It shows and measures the editing method. It is of no use for anything else.

Licence: Apache-2.0, as the project.
"""


def _row(run: dict[str, Any]) -> str:
    """A run's line in the card's table."""
    return (
        f"| text encoder and UNet | {run['seed']} | {run['unet_steps']:,} | {run['unet_batch']} | "
        f"{run['unet_minutes']:.1f} | {run['unet_loss']:.4f} | loss {run['held_out']:.4f} |"
    )
