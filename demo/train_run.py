"""A whole training run: scenes, VAE, latents, UNet, sheets, export; each stage resumes by itself.

In the work folder: `vae.pt`, `latents.pt` and `unet.pt` (states), `tokenizer/`, and the sheets.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

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
from demo.train_export import Facts, digest, export, read_facts, read_weights, refuse_foreign
from demo.train_loop import Plan, Stop, Training, TrainingError, load, save
from demo.train_machine import choose_device, hardware, has_bf16
from demo.train_sheet import SHEET, write_sheet
from demo.train_unet import NoiseLoss, Pairs, sample
from demo.train_vae import VaeLoss, decode, encode, psnr

VAE_SHARE = 0.2
"""The part of the minutes that the VAE gets: 28 of 140."""


@dataclass(frozen=True)
class Settings:
    """What a run does. `steps` (VAE's, UNet's) instead of minutes makes it a smoke test; `start` is
    a checkpoint whose VAE is kept and whose text encoder and UNet learn on."""

    out: Path
    work: Path
    minutes: float = 140.0
    device: str = "auto"
    size: int = 128
    seed: int = 0
    pool: int = 65_536
    resume: bool = False
    steps: tuple[int, int] | None = None
    batches: tuple[int, int] | None = None
    line_seconds: float = 20.0
    start: Path | None = None


class Run:
    """The stages in order; whatever is already in the work folder is not done again."""

    def __init__(self, settings: Settings, stop: Stop) -> None:
        self.settings, self.stop, self.work = settings, stop, settings.work
        self.device = choose_device(settings.device)
        self.half = has_bf16(self.device)
        self.seeds = scenes.training_seeds(settings.pool)
        self.identity: dict[str, Any] = {
            "size": settings.size,
            "seed": settings.seed,
            "pool": settings.pool,
        }
        if settings.start is not None:
            self.identity["start"] = digest(settings.start)
        torch.manual_seed(settings.seed)

    @property
    def batches(self) -> tuple[int, int]:
        """Scenes a step of VAE and UNet: small on a CPU, where steps are scarce."""
        return self.settings.batches or ((16, 16) if self.device.type == "cpu" else (64, 128))

    @cached_property
    def captions(self) -> Captions:
        return Captions(self.work / "tokenizer")

    def draw(self, seeds: range, size: int) -> tuple[Pixels, list[str]]:
        """Scenes of the pool."""
        start = time.perf_counter()
        drawn = draw(seeds, size)
        print(f"drew {len(seeds)} scenes in {time.perf_counter() - start:.0f} s", flush=True)
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
        self._load(vae, unet)
        # Once there are latents the VAE is frozen, even if a resumed run is given more minutes.
        ready = self.settings.start is not None or (self.work / "latents.pt").exists()
        if vae.progress < 1 and not ready:
            # It is convolutional: pictures of half the size cost a quarter and teach it as well.
            images = self.draw(self.seeds, self.settings.size // 2)[0]
            vae.run(VaeLoss(images, self.device, self.half), self._vae_sheet, self.stop)
        pairs, spread, spent = self._latents(vae)
        unet.plan = self._unet_plan(spent)
        noise_loss = NoiseLoss(pairs, self.device, self.half)
        if unet.progress < 1:
            unet.run(noise_loss, lambda training: self._sheet(training, vae, spread), self.stop)
        self.export(vae, unet, spread)

    def export_only(self) -> None:
        """Write the checkpoint from the states as they are; TrainingError if a stage has none."""
        refuse_foreign(self.settings.out)
        needed = ["vae.pt"] * (self.settings.start is None) + ["latents.pt", "unet.pt"]
        missing = [n for n in needed if not (self.work / n).exists()]
        if missing:
            raise TrainingError(f"{self.work} has no {missing[0]} yet; train on with --resume")
        vae, unet = self._vae_stage(), self._unet_stage()
        self._load(vae, unet)
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

    def _unet_stage(self) -> Training:
        torch.manual_seed(self.settings.seed + 1)
        model = self._placed(Denoiser(self.settings.size, self.captions.size))
        return Training(self._unet_plan(), model, self.work / "unet.pt", self.identity)

    def _unet_plan(self, spent: float = 0.0) -> Plan:
        """`spent`: seconds that went into the latents and are taken from its time."""
        settings, steps = self.settings, self.settings.steps
        share, rate = (1 - VAE_SHARE, 8e-4) if settings.start is None else (1.0, 4e-4)
        return Plan(
            "unet",
            rate=rate,
            batch=self.batches[1],
            minutes=max(0.0, share * settings.minutes - spent / 60),
            steps=steps and steps[1],
            seed=settings.seed,
            warmup=5 if steps else 200,
            line_seconds=settings.line_seconds,
        )

    def _load(self, vae: Training, unet: Training) -> None:
        """The stages' states, or what they begin with."""
        vae.load()
        unet.load()
        if self.settings.start is None:
            return
        start, denoiser = self.settings.start, cast(Denoiser, unet.model)
        read_weights(start, "vae", vae.ema)
        if not unet.part.step:
            read_weights(start, "unet", denoiser.unet)
            read_weights(start, "text_encoder", denoiser.text)
            unet.ema.load_state_dict(denoiser.state_dict())

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
            # Each is met some ten times, which a UNet of 8 M numbers cannot learn by heart.
            images, said = self.draw(self.seeds[: len(self.seeds) // 2], self.settings.size)
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
        before = read_facts(self.settings.start) if self.settings.start else ()
        if before:  # the VAE is the one that the first run trained
            learnt = {k: v for k, v in before[0].items() if k.startswith("vae_")}
        else:
            learnt = {
                "vae_steps": vae.part.step,
                "vae_batch": vae.plan.batch,
                "vae_minutes": vae.part.seconds / 60,
                "vae_loss": vae.part.history[-1][2] if vae.part.history else float("nan"),
            }
        facts = Facts(
            **learnt,
            size=self.settings.size,
            scenes=self.settings.pool,
            seed=self.settings.seed,
            hardware=hardware(self.device, self.half),
            psnr=psnr(folded, images, torch.device("cpu")),
            unet_steps=unet.part.step,
            unet_batch=unet.plan.batch,
            unet_minutes=unet.part.seconds / 60,
            unet_loss=unet.part.history[-1][2] if unet.part.history else float("nan"),
            held_out=held_out,
            before=before,
        )
        denoiser: Any = copy.deepcopy(unet.ema).to("cpu")
        size = export(self.settings.out, folded, denoiser, self.captions, facts)
        print(
            f"wrote {self.settings.out} ({size / 1e6:.2f} MB): PSNR {facts.psnr:.2f} dB, "
            f"held-out loss {facts.held_out:.4f}"
        )
