"""A whole training run: scenes, VAE, latents, UNet, sheets, export; each stage resumes by itself.

In the work folder: `vae.pt`, `latents.pt` and `unet.pt` (states), `tokenizer/`, and the sheets.
"""

from __future__ import annotations

import copy
import os
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from demo import scenes
from demo.drawing import Pixels
from demo.networks import (
    LIMIT,
    Denoiser,
    Spread,
    fold,
    make_vae,
    parameters,
    use_plain_attention,
)
from demo.train_data import HELD_OUT, Captions, draw
from demo.train_export import Facts, export, refuse_foreign
from demo.train_loop import Plan, Stop, Training, TrainingError, load, save
from demo.train_machine import choose_device, hardware, has_bf16
from demo.train_unet import NoiseLoss, Pairs, sample
from demo.train_vae import VaeLoss, decode, encode, psnr

VAE_SHARE = 0.29
"""The part of the minutes that the VAE gets: 40 of 140."""

SHEET = (
    "a red ball on a wooden table",
    "a green cube in a studio",
    "a yellow star on a pink background",
    "a purple pear on the beach",
    "a white mug on a striped cloth",
    "a black heart on a grey background",
    "an orange cone on the grass",
    "a blue ring on a checked cloth",
    "a red ball and a green cube on a wooden table",
    "a green ball and a red cube on a wooden table",
    "a blue mug and a yellow pear in a studio",
    "a yellow mug and a blue pear in a studio",
    "a red heart and a white ring and a blue cone on the grass",
    "a blue heart and a red ring and a white cone on the grass",
    "an orange star and a black ball and a green mug on the beach",
    "a green star and an orange ball and a black mug on the beach",
)
"""Captions of the sample sheet; the second of each later pair has the first one's colours moved."""


@dataclass(frozen=True)
class Settings:
    """What a run does. `steps` (VAE's, UNet's) instead of minutes makes it a smoke test."""

    out: Path
    work: Path
    minutes: float = 140.0
    device: str = "auto"
    size: int = 64
    seed: int = 0
    pool: int = 65_536
    resume: bool = False
    steps: tuple[int, int] | None = None
    batches: tuple[int, int] | None = None
    line_seconds: float = 20.0


class Run:
    """The stages in order; whatever is already in the work folder is not done again."""

    def __init__(self, settings: Settings, stop: Stop) -> None:
        self.settings, self.stop, self.work = settings, stop, settings.work
        self.device = choose_device(settings.device)
        self.half = has_bf16(self.device)
        self.seeds = scenes.training_seeds(settings.pool)
        self.identity = {"size": settings.size, "seed": settings.seed, "pool": settings.pool}
        torch.manual_seed(settings.seed)

    @property
    def batches(self) -> tuple[int, int]:
        """Scenes a step of VAE and UNet: small on a CPU, where steps are scarce."""
        return self.settings.batches or ((16, 32) if self.device.type == "cpu" else (64, 128))

    @cached_property
    def captions(self) -> Captions:
        return Captions(self.work / "tokenizer")

    @cached_property
    def pool(self) -> tuple[Pixels, list[str]]:
        start = time.perf_counter()
        drawn = draw(self.seeds, self.settings.size)
        print(f"drew {len(self.seeds)} scenes in {time.perf_counter() - start:.0f} s", flush=True)
        return drawn

    @cached_property
    def held_out(self) -> tuple[Pixels, list[str]]:
        return scenes.batch(HELD_OUT[: 32 if self.settings.steps else None], self.settings.size)

    def train(self) -> None:
        """Both stages and the export; raises Stopped or TrainingError."""
        refuse_foreign(self.settings.out)
        self._check_work()
        vae, unet = self._vae_stage(), self._unet_stage()
        size = 2 * (parameters(vae.model) + parameters(unet.model))
        if size > LIMIT:
            raise TrainingError(f"these networks have {size} bytes in fp16; at most {LIMIT} fit")
        vae.load()
        # Once there are latents the VAE is frozen, even if a resumed run is given more minutes.
        if vae.progress < 1 and not (self.work / "latents.pt").exists():
            images = self.pool[0]
            vae.run(VaeLoss(images, self.device, self.half), self._vae_sheet, self.stop)
        pairs, spread, spent = self._latents(vae)
        unet = self._unet_stage(spent)
        unet.load()
        noise_loss = NoiseLoss(pairs, self.device, self.half)
        if unet.progress < 1:
            unet.run(noise_loss, lambda training: self._sheet(training, vae, spread), self.stop)
        self.export(vae, unet, spread)

    def export_only(self) -> None:
        """Write the checkpoint from the states as they are; TrainingError if a stage has none."""
        refuse_foreign(self.settings.out)
        missing = [n for n in ("vae.pt", "latents.pt", "unet.pt") if not (self.work / n).exists()]
        if missing:
            raise TrainingError(f"{self.work} has no {missing[0]} yet; train on with --resume")
        vae, unet = self._vae_stage(), self._unet_stage()
        vae.load()
        unet.load()
        state = load(self.work / "latents.pt", self.identity)
        self.export(vae, unet, Spread(state["mean"], state["std"]))

    def _check_work(self) -> None:
        if not self.settings.resume and any(self.work.glob("*.pt")):
            raise TrainingError(
                f"{self.work} holds a run already; go on with --resume, or name another --work"
            )

    def _vae_stage(self) -> Training:
        settings, steps = self.settings, self.settings.steps
        torch.manual_seed(settings.seed)
        model = self._placed(make_vae(settings.size))
        plan = Plan(
            "vae",
            rate=1e-3,
            batch=self.batches[0],
            minutes=VAE_SHARE * settings.minutes,
            steps=steps and steps[0],
            seed=settings.seed,
            warmup=5 if steps else 200,
            line_seconds=settings.line_seconds,
        )
        return Training(plan, model, self.work / "vae.pt", self.identity)

    def _unet_stage(self, spent: float = 0.0) -> Training:
        """`spent`: seconds that went into the latents and are taken from its time."""
        settings, steps = self.settings, self.settings.steps
        torch.manual_seed(settings.seed + 1)
        model = self._placed(Denoiser(settings.size, self.captions.size))
        plan = Plan(
            "unet",
            rate=8e-4,
            batch=self.batches[1],
            minutes=max(0.0, (1 - VAE_SHARE) * settings.minutes - spent / 60),
            steps=steps and steps[1],
            seed=settings.seed,
            warmup=5 if steps else 200,
            line_seconds=settings.line_seconds,
        )
        return Training(plan, model, self.work / "unet.pt", self.identity)

    def _placed(self, model: Any) -> Any:
        """On its device, in the form that trains fastest there (measured on the CPU only)."""
        if self.device.type == "cuda":
            return model.to(self.device, memory_format=torch.channels_last)
        if isinstance(model, Denoiser):
            use_plain_attention(denoiser=model)
        else:
            use_plain_attention(vae=model)
        return model

    def _latents(self, vae: Training) -> tuple[Pairs, Spread, float]:
        """The pool's latents by the trained VAE, each channel with mean 0 and deviation 1."""
        path = self.work / "latents.pt"
        if not path.exists():
            start = time.perf_counter()
            images, said = self.pool
            latents = encode(vae.ema, images, self.device, self.half)
            spread = Spread.of(latents)
            latents = (latents - spread.mean.view(1, -1, 1, 1)) / spread.std.view(1, -1, 1, 1)
            state: dict[str, Any] = {
                "identity": self.identity,
                "latents": latents.half(),
                "tokens": self.captions.tokens(said).short(),
                "mean": spread.mean,
                "std": spread.std,
                "seconds": time.perf_counter() - start,
            }
            save(path, state)
            print(f"encoded {len(images)} scenes in {state['seconds']:.0f} s", flush=True)
        state = load(path, self.identity)
        tokens = state["tokens"].long()
        pairs = Pairs(state["latents"].float(), tokens, self.captions.tokens([""]))
        return pairs, Spread(state["mean"], state["std"]), state["seconds"]

    def _vae_sheet(self, training: Training) -> None:
        images = self.held_out[0]
        again = decode(
            training.ema, encode(training.ema, images[:16], self.device, False), self.device
        )
        write_sheet(self.work / "vae.png", np.concatenate([images[:16], again]))
        print(
            f"vae   PSNR {psnr(training.ema, images, self.device):.2f} dB on scenes not trained on"
        )

    def _sheet(self, training: Training, vae: Training, spread: Spread) -> None:
        tokens, empty = self.captions.tokens(list(SHEET)), self.captions.tokens([""])
        steps = 2 if self.settings.steps else 25
        latents = sample(training.ema, tokens, empty, self.settings.size // 4, steps=steps)
        plain = latents * spread.std.view(1, -1, 1, 1) + spread.mean.view(1, -1, 1, 1)
        pictures = decode(vae.ema, plain, self.device)
        write_sheet(self.work / f"samples-{training.part.step:06}.png", pictures)
        write_sheet(self.work / "samples.png", pictures)

    def export(self, vae: Training, unet: Training, spread: Spread) -> None:
        """Fold the channels' statistics into the VAE, write the folder."""
        folded: Any = copy.deepcopy(vae.ema).to("cpu")
        fold(folded, spread)
        images, said = self.held_out
        latents = encode(folded, images, torch.device("cpu"), half=False)
        # The pool's deviation is 1 by construction; what Stable Diffusion multiplies by is 1.
        folded.register_to_config(scaling_factor=1.0)
        pairs = Pairs(latents, self.captions.tokens(said), self.captions.tokens([""]))
        held_out = NoiseLoss(pairs, self.device, self.half).held_out(unet.ema, pairs)
        facts = Facts(
            size=self.settings.size,
            scenes=self.settings.pool,
            seed=self.settings.seed,
            hardware=hardware(self.device, self.half),
            vae_steps=vae.part.step,
            vae_batch=vae.plan.batch,
            vae_minutes=vae.part.seconds / 60,
            vae_loss=vae.part.history[-1][2] if vae.part.history else float("nan"),
            psnr=psnr(folded, images, torch.device("cpu")),
            unet_steps=unet.part.step,
            unet_batch=unet.plan.batch,
            unet_minutes=unet.part.seconds / 60,
            unet_loss=unet.part.history[-1][2] if unet.part.history else float("nan"),
            held_out=held_out,
        )
        denoiser: Any = copy.deepcopy(unet.ema).to("cpu")
        size = export(self.settings.out, folded, denoiser, self.captions, facts)
        print(
            f"wrote {self.settings.out} ({size / 1e6:.2f} MB): PSNR {facts.psnr:.2f} dB, "
            f"held-out loss {facts.held_out:.4f}"
        )


def write_sheet(path: Path, pictures: Pixels, across: int = 8) -> None:
    """Pictures, uint8 [N, H, W, 3], in rows of `across`, twice as large, as PNG."""
    rows = [
        np.concatenate(list(pictures[i : i + across]), 1) for i in range(0, len(pictures), across)
    ]
    sheet = Image.fromarray(np.concatenate(rows))
    part = path.with_suffix(".part.png")
    try:
        sheet.resize((2 * sheet.width, 2 * sheet.height), Image.Resampling.NEAREST).save(part)
        os.replace(part, path)
    except OSError as error:
        raise TrainingError(f"cannot write {path}: {error}") from error
