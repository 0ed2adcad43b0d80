"""The pairs that a few-step model learns from: noisy latents, and where sampling from them ends.

The teacher samples from a noisy training scene to a clean latent by deterministic DDIM with
guidance, under the scene's caption or that of an edit of it. Every latent on the way, with its
timestep, is one input, and the clean latent is the wanted answer to all of them (Luhman and Luhman
2021, arXiv 2101.02388; with the whole path as inputs, as in consistency models, Song et al. 2023,
arXiv 2303.01469).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from demo import scenes
from demo.random_checkpoint import write_json
from demo.training import TrainingError, vae
from demo.training.data import tokenize
from demo.training.denoiser import SCHEDULER
from demo.training.files import atomic_folder
from demo.training.hardware import Hardware
from demo.training.interrupts import Interrupts
from demo.training.trainer import generator

GUIDANCE = 5.0
"""The guidance scale that the few-step model has in its weights: the demo's."""

SPACING = 70
"""The longest step of the teacher in timesteps."""

STARTS = 64
"""Scenes in one part of the pairs."""

_TIME = "time.json"


@dataclass(frozen=True)
class Pairs:
    """Training pairs in the order of their timesteps.

    Args:
        noisy: float16 [N, 4, h, w].
        timesteps: int64 [N], 0..999, ascending.
        clean: where sampling ends, float16 [M, 4, h, w]; M starts have N latents together.
        tokens: of the captions, int64 [M, 77].
        start: which of the M each input belongs to, int64 [N].
    """

    noisy: Tensor
    timesteps: Tensor
    clean: Tensor
    tokens: Tensor
    start: Tensor

    @classmethod
    def load(cls, folder: Path) -> Pairs:
        """Read all parts in `folder`; TrainingError if there are none, or one is damaged."""
        parts = _parts(folder)
        if not parts:
            raise TrainingError(f"{folder} has no pairs; train with more minutes")
        try:
            loaded = [load_file(part / "pairs.safetensors") for part in parts]
        except Exception as error:
            raise TrainingError(f"{folder} is damaged; delete it and use --resume") from error
        starts = [len(part["clean"]) for part in loaded]
        firsts = np.cumsum([0, *starts[:-1]])
        fields = {
            key: torch.cat([part[key] for part in loaded])
            for key in ("noisy", "timesteps", "clean", "tokens")
        }
        fields["start"] = torch.cat(
            [part["start"] + int(first) for part, first in zip(loaded, firsts, strict=True)]
        )
        order = fields["timesteps"].argsort(stable=True)
        for key in ("noisy", "timesteps", "start"):
            fields[key] = fields[key][order]
        return cls(**fields)


class Teacher:
    """Writes parts of the pairs, each determined by the seed and its number.

    Args:
        denoiser: the trained text encoder and UNet.
        autoencoder: the trained VAE.
        tokenizer: of the captions.
        seeds: of the scenes to start from.
    """

    def __init__(
        self, denoiser: Any, autoencoder: Any, tokenizer: Any, seeds: Sequence[int], size: int
    ) -> None:
        self.denoiser, self.autoencoder, self.tokenizer = denoiser, autoencoder, tokenizer
        self.seeds, self.size = seeds, size

    def write(
        self,
        folder: Path,
        hardware: Hardware,
        interrupts: Interrupts,
        *,
        minutes: float,
        parts: int | None,
        seed: int,
    ) -> float:
        """Write parts until there are `parts`, or else until `minutes` have passed.

        Parts that are there already count, with their time. Returns the minutes of all. Raises
        Interrupted between two parts, TrainingError if a file cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        written, logged = len(_parts(folder)), 0.0
        earlier = json.loads((folder / _TIME).read_text())["seconds"] if written else 0.0
        begin = time.perf_counter() - earlier

        def seconds() -> float:
            return time.perf_counter() - begin

        while written < parts if parts is not None else seconds() < minutes * 60:
            with interrupts.deferred():
                pairs = self.part(written, hardware, seed)
                write_json(folder / _TIME, {"seconds": seconds()})
                with atomic_folder(folder / f"part-{written:05}") as new:
                    save_file(pairs, new / "pairs.safetensors")
                written += 1
            if seconds() - logged >= 30:
                logged = seconds()
                print(f"teacher  {written * STARTS} scenes after {logged / 60:.1f} min", flush=True)
        return seconds() / 60

    @torch.inference_mode()
    def part(self, number: int, hardware: Hardware, seed: int) -> dict[str, Tensor]:
        """Sample from `STARTS` scenes; return the tensors of a part, on the CPU."""
        draw = generator(seed, "teacher", number)
        rows = torch.randint(len(self.seeds), (STARTS,), generator=draw).tolist()
        chosen = [scenes.scene(self.seeds[row], self.size) for row in rows]
        clean = vae.encode(self.autoencoder, np.stack([s.image for s in chosen]), hardware)
        captions = [_caption(scene, draw) for scene in chosen]
        # High levels are the hard ones: three quarters of the starts are above 630.
        level = float(torch.rand((), generator=draw)) ** (1 / 3)
        spread = torch.rand(STARTS, generator=draw) * SPACING
        first = (1000 * level - spread).clamp(SPACING / 2, 999)
        steps = max(1, math.ceil(float(first.max()) / SPACING))
        noise = torch.randn(clean.shape, generator=draw)
        path = [(first * (1 - i / steps)).round().long() for i in range(steps)]
        visited, end = self._sample(clean, noise, path, captions, hardware)
        return {
            "noisy": torch.cat(visited).half(),
            "timesteps": torch.cat(path),
            "clean": end.half(),
            "tokens": tokenize(self.tokenizer, captions),
            "start": torch.arange(STARTS).repeat(steps),
        }

    def _sample(
        self,
        clean: Tensor,
        noise: Tensor,
        path: list[Tensor],
        captions: list[str],
        hardware: Hardware,
    ) -> tuple[list[Tensor], Tensor]:
        """Return the latents at the timesteps of `path`, and the clean one at its end."""
        device = hardware.device
        text = tokenize(self.tokenizer, [*captions, *[""] * len(captions)]).to(device)
        x, visited = SCHEDULER.add_noise(clean, noise, path[0]).to(device), []
        embeddings = self.denoiser.text_encoder(text).last_hidden_state
        for timesteps, following in zip(path, [*path[1:], None], strict=True):
            visited.append(x.cpu())
            with torch.autocast(device.type, torch.bfloat16, enabled=hardware.bf16):
                both = self.denoiser.unet(
                    torch.cat([x, x]), timesteps.repeat(2).to(device), embeddings
                )
            told, free = both.sample.float().chunk(2)
            eps = free + GUIDANCE * (told - free)
            x0 = to_clean(x, eps, timesteps.to(device))
            x = x0 if following is None else _add(x0, eps, following.to(device))
        return visited, x.cpu()


def to_clean(noisy: Tensor, eps: Tensor, timesteps: Tensor) -> Tensor:
    """Return the clean latents, float32 [B, 4, h, w], that a predicted noise implies."""
    signal, noise = _levels(timesteps)
    return (noisy - noise * eps) / signal


def _add(clean: Tensor, eps: Tensor, timesteps: Tensor) -> Tensor:
    signal, noise = _levels(timesteps)
    return signal * clean + noise * eps


def _levels(timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """Return sqrt(abar) and sqrt(1 - abar), float32 [B, 1, 1, 1]."""
    abar = SCHEDULER.alphas_cumprod.to(timesteps.device)[timesteps].view(-1, 1, 1, 1)
    return abar.sqrt(), (1 - abar).sqrt()


def _caption(scene: scenes.Scene, draw: torch.Generator) -> str:
    """Return the scene's caption, or as often that of a random edit of it."""
    edits = scene.edits()
    pick = int(torch.randint(2 * len(edits), (), generator=draw))
    return edits[pick].target if pick < len(edits) else scene.caption


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*"))
