"""A training run of the demo's model: VAE, latents, text encoder and UNet, export.

The work folder has the checkpoints of both stages (`vae/`, `unet/`), the latents with the VAE that
made them (`latents/`), the tokenizer, and sheets of pictures. Every stage can be resumed.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from demo import scenes
from demo.random_checkpoint import write_json
from demo.scenes import Pixels
from demo.training import TrainingError, vae
from demo.training.data import HELD_OUT, caption_tokenizer, draw_scenes, tokenize
from demo.training.denoiser import LatentPairs, noise_loss
from demo.training.export import digest, export, read_runs, read_weights, refuse_foreign
from demo.training.files import atomic_folder
from demo.training.hardware import Hardware
from demo.training.interrupts import Interrupts
from demo.training.networks import Denoiser, make_vae, use_plain_attention
from demo.training.samples import SAMPLE_CAPTIONS, sample, write_sheet
from demo.training.trainer import Plan, Trainer, checkpoints
from engine.loader import quiet

VAE_SHARE = 0.2
"""The VAE's share of the minutes: 28 of 140."""


@dataclass(frozen=True)
class Settings:
    """The options of a run.

    `steps` and `batch_sizes` are for (VAE, UNet); with `steps` the run is a smoke test and
    `minutes` are not used. `start` is a checkpoint: its VAE is kept, its text encoder and UNet
    are trained further.
    """

    out: Path
    work: Path
    minutes: float = 140.0
    device: str = "auto"
    size: int = 128
    seed: int = 0
    pool: int = 65_536
    resume: bool = False
    steps: tuple[int, int] | None = None
    batch_sizes: tuple[int, int] | None = None
    log_seconds: float = 20.0
    start: Path | None = None


class Run:
    """The stages in order; results in the work folder are used again."""

    def __init__(self, settings: Settings, interrupts: Interrupts) -> None:
        self.settings, self.interrupts, self.work = settings, interrupts, settings.work
        self.hardware = Hardware.select(settings.device)
        self.seeds = scenes.training_seeds(settings.pool)
        self.latents = self.work / "latents"

    @cached_property
    def tokenizer(self) -> Any:
        return caption_tokenizer(self.work / "tokenizer")

    @cached_property
    def held_out(self) -> tuple[Pixels, list[str]]:
        return scenes.batch(HELD_OUT[: 32 if self.settings.steps else None], self.settings.size)

    def train(self) -> None:
        """Train both stages and export; raises Interrupted or TrainingError."""
        refuse_foreign(self.settings.out)
        self._check_work_folder(resume=self.settings.resume)
        if not self.latents.exists():
            if self.settings.start is None:
                autoencoder, figures = self._train_vae()
            else:
                autoencoder = vae.load_vae(self.settings.start, self.hardware.device)
                figures = _vae_figures(self.settings.start)
            self._write_latents(autoencoder, figures)
        trainer = self._denoiser_trainer()
        if trainer.fraction_done < 1:
            autoencoder = vae.load_vae(self.latents, self.hardware.device)
            trainer.run(
                self._latent_pairs().draw,
                noise_loss,
                self.interrupts,
                lambda: self._write_samples(trainer, autoencoder),
            )
        self._export(trainer)

    def _check_work_folder(self, *, resume: bool) -> None:
        """Refuse the work folder of another run, and of any run unless `resume`."""
        path, settings = self.work / "run.json", self.settings
        options: dict[str, Any] = {
            "size": settings.size,
            "seed": settings.seed,
            "pool": settings.pool,
            "start": digest(settings.start) if settings.start else None,
        }
        started = self.latents.exists() or any(self.work.glob("*/checkpoint-*"))
        if started and not resume:
            raise TrainingError(
                f"{self.work} has a run already; continue it with --resume, or use another --work"
            )
        saved = _read_json(path) if started else options
        for key, value in options.items():
            if saved.get(key) != value:
                raise TrainingError(
                    f"{self.work} belongs to a run with {key} {saved.get(key)}, not {value}; "
                    "use the same options, or another --work folder"
                )
        write_json(path, options)

    def _plan(self, stage: str, learning_rate: float, minutes: float) -> Plan:
        settings, index = self.settings, ("vae", "unet").index(stage)
        # Steps are few on a CPU, so its batches are small.
        default = (16, 16) if self.hardware.device.type == "cpu" else (64, 128)
        return Plan(
            stage,
            learning_rate,
            batch_size=(settings.batch_sizes or default)[index],
            minutes=minutes,
            steps=settings.steps and settings.steps[index],
            seed=settings.seed,
            warmup_steps=5 if settings.steps else 200,
            log_seconds=settings.log_seconds,
        )

    def _trainer(self, plan: Plan, model: Any) -> Trainer:
        """Return a trainer in the fastest form for the device, with the newest checkpoint."""
        if self.hardware.device.type == "cuda":
            model = model.to(self.hardware.device, memory_format=torch.channels_last)
        else:
            use_plain_attention(model)
        trainer = Trainer(plan, model, self.hardware, self.work / plan.stage)
        trainer.resume()
        return trainer

    def _train_vae(self) -> tuple[Any, dict[str, Any]]:
        """Return the VAE with its EMA weights, and its figures for the model card."""
        torch.manual_seed(self.settings.seed)
        plan = self._plan("vae", 1e-3, VAE_SHARE * self.settings.minutes)
        trainer = self._trainer(plan, make_vae(self.settings.size))
        if trainer.fraction_done < 1:
            # The VAE is convolutional: pictures of half the size cost a quarter of the time.
            images, _ = draw_scenes(self.seeds, self.settings.size // 2)
            trainer.run(
                vae.vae_batches(images),
                vae.vae_loss,
                self.interrupts,
                lambda: self._write_reconstructions(trainer),
            )
        trainer.ema.copy_to(trainer.model.parameters())
        figures = {
            "vae_steps": trainer.progress.step,
            "vae_batch": plan.batch_size,
            "vae_minutes": trainer.progress.seconds / 60,
            "vae_loss": trainer.progress.loss,
        }
        return trainer.accelerator.unwrap_model(trainer.model).eval(), figures

    def _write_latents(self, autoencoder: Any, vae_figures: dict[str, Any]) -> None:
        """Encode the scenes of the second stage and write them with the normalised VAE."""
        start = time.perf_counter()
        images, captions = draw_scenes(self.seeds[: len(self.seeds) // 2], self.settings.size)
        latents = vae.encode(autoencoder, images, self.hardware)
        latents = vae.normalize_latents(autoencoder, latents)
        tokens = tokenize(self.tokenizer, captions)
        seconds = time.perf_counter() - start
        with atomic_folder(self.latents) as new, quiet():
            save_file({"latents": latents.half(), "tokens": tokens}, new / "pairs.safetensors")
            autoencoder.save_pretrained(new / "vae")
            write_json(new / "figures.json", {"seconds": seconds, "vae": vae_figures})
        print(f"encoded {len(images)} scenes in {seconds:.0f} s", flush=True)

    def _latent_pairs(self) -> LatentPairs:
        try:
            pairs = load_file(self.latents / "pairs.safetensors")
        except Exception as error:
            raise TrainingError(f"{self.latents} is damaged; delete it and use --resume") from error
        return LatentPairs(pairs["latents"], pairs["tokens"], tokenize(self.tokenizer, [""]))

    def _denoiser_trainer(self) -> Trainer:
        settings, start = self.settings, self.settings.start
        torch.manual_seed(settings.seed + 1)
        model = Denoiser(settings.size, len(self.tokenizer))
        share, rate = (1 - VAE_SHARE, 8e-4) if start is None else (1.0, 4e-4)
        if start is not None and not checkpoints(self.work / "unet"):
            read_weights(start, "unet", model.unet)
            read_weights(start, "text_encoder", model.text_encoder)
        figures = _read_json(self.latents / "figures.json")
        minutes = max(0.0, share * settings.minutes - figures["seconds"] / 60)
        return self._trainer(self._plan("unet", rate, minutes), model)

    def _write_reconstructions(self, trainer: Trainer) -> None:
        images = self.held_out[0]
        with trainer.ema_weights() as model:
            decoded = vae.round_trip(model)(images)
        pictures = [Image.fromarray(p) for p in (*images[:16], *decoded[:16])]
        write_sheet(self.work / "vae.png", pictures)
        print(f"vae   PSNR {vae.psnr(images, decoded):.2f} dB on held-out scenes", flush=True)

    def _write_samples(self, trainer: Trainer, autoencoder: Any) -> None:
        steps = 2 if self.settings.steps else 25
        with trainer.ema_weights() as model:
            captions = list(SAMPLE_CAPTIONS)
            pictures = sample(model, autoencoder, self.tokenizer, captions, steps)
        write_sheet(self.work / f"samples-{trainer.progress.step:06}.png", pictures)
        write_sheet(self.work / "samples.png", pictures)

    def _export(self, trainer: Trainer) -> None:
        settings, progress = self.settings, trainer.progress
        autoencoder = vae.load_vae(self.latents, torch.device("cpu"))
        images, captions = self.held_out
        latents = vae.encode(autoencoder, images, Hardware(torch.device("cpu"), bf16=False))
        pairs = LatentPairs(
            latents, tokenize(self.tokenizer, captions), tokenize(self.tokenizer, [""])
        )
        with trainer.ema_weights() as model:
            held_out = pairs.mean_loss(model, self.hardware.device, bf16=self.hardware.bf16)
            run = dict(
                **_read_json(self.latents / "figures.json")["vae"],
                size=settings.size,
                scenes=settings.pool,
                seed=settings.seed,
                hardware=str(self.hardware),
                psnr=vae.psnr(images, vae.decode(autoencoder, latents)),
                unet_steps=progress.step,
                unet_batch=trainer.plan.batch_size,
                unet_minutes=progress.seconds / 60,
                unet_loss=progress.loss,
                held_out=held_out,
            )
            runs = [*(read_runs(settings.start) if settings.start else ()), run]
            size = export(settings.out, autoencoder, model, self.work / "tokenizer", runs)
        print(
            f"wrote {settings.out} ({size / 1e6:.2f} MB): PSNR {run['psnr']:.2f} dB, "
            f"held-out loss {held_out:.4f}"
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise TrainingError(f"{path} is missing or damaged; use another --work folder") from error


def _vae_figures(start: Path) -> dict[str, Any]:
    """Return the figures of the VAE that `start` was trained with."""
    first = next(iter(read_runs(start)), {})
    unknown = {"vae_steps": 0, "vae_batch": 0, "vae_minutes": 0.0, "vae_loss": float("nan")}
    return {key: first.get(key, value) for key, value in unknown.items()}
