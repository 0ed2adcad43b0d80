"""A run of `demo.distill`: the teacher's pairs, the training of the LoRA, export.

The work folder has the pairs (`pairs/`, and `held-out/` from scenes that no pair starts from), the
checkpoints of the training (`lora/`), and sheets of pictures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from demo import scenes
from demo.random_checkpoint import write_json
from demo.training import TrainingError, vae
from demo.training.data import HELD_OUT
from demo.training.export import RUNS, digest, read_weights
from demo.training.files import atomic_folder
from demo.training.hardware import Hardware
from demo.training.interrupts import Interrupts
from demo.training.networks import Denoiser, use_plain_attention
from demo.training.samples import SAMPLE_CAPTIONS, few_step_sample, write_sheet
from demo.training.student import (
    RANK,
    PairBatch,
    add_lora,
    draw_pairs,
    pair_loss,
    write_lora,
)
from demo.training.teacher import GUIDANCE, Pairs, Teacher
from demo.training.trainer import Plan, Trainer, generator

TEACHER_SHARE = 1 / 3
"""The share of the minutes that samples the pairs."""

SCENES = 32_768
"""Scenes to start from: those that the demo's UNet was trained on."""

WEIGHTS = "pytorch_lora_weights.safetensors"
"""diffusers' name for the file of a LoRA."""

_CARD = Path(__file__).with_name("lora_card.md")


@dataclass(frozen=True)
class Settings:
    """The options of a run.

    With `parts` and `steps` the run is a smoke test, and `minutes` are not used. `batch_size` is
    that of the training.
    """

    out: Path
    work: Path
    model: Path
    minutes: float = 80.0
    device: str = "auto"
    seed: int = 0
    resume: bool = False
    parts: int | None = None
    steps: int | None = None
    batch_size: int = 16
    held_out_parts: int = 4
    log_seconds: float = 20.0


class Distillation:
    """The stages in order; results in the work folder are used again."""

    def __init__(self, settings: Settings, interrupts: Interrupts) -> None:
        self.settings, self.interrupts, self.work = settings, interrupts, settings.work
        self.hardware = Hardware.select(settings.device)

    @cached_property
    def pairs(self) -> Pairs:
        return Pairs.load(self.work / "pairs")

    @cached_property
    def held_out(self) -> Pairs:
        return Pairs.load(self.work / "held-out")

    def run(self) -> None:
        """Make the pairs, train, and write the LoRA; raises Interrupted or TrainingError."""
        settings = self.settings
        if settings.out.exists() and not _replaceable(settings.out):
            raise TrainingError(f"{settings.out} exists and is not a LoRA; pass another folder")
        self._check_work_folder()
        from transformers import CLIPTokenizer

        tokenizer = CLIPTokenizer.from_pretrained(settings.model / "tokenizer")
        autoencoder = vae.load_vae(settings.model, self.hardware.device)
        size = int(autoencoder.config.sample_size)
        denoiser = Denoiser(size, len(tokenizer))
        read_weights(settings.model, "unet", denoiser.unet)
        read_weights(settings.model, "text_encoder", denoiser.text_encoder)
        denoiser.to(self.hardware.device)
        minutes = self._write_pairs(denoiser, autoencoder, tokenizer, size)

        trainer = self._trainer(denoiser, settings.minutes - minutes)
        if trainer.fraction_done < 1:
            counts = len(self.pairs.noisy), len(self.pairs.clean)
            print("lora  {} pairs from {} scenes".format(*counts), flush=True)
            trainer.run(
                partial(draw_pairs, self.pairs),
                pair_loss,
                self.interrupts,
                lambda: self._write_samples(trainer, autoencoder, tokenizer),
            )
        self._export(trainer, minutes)

    def _check_work_folder(self) -> None:
        """Refuse the work folder of another run, and of any run unless `resume`."""
        path, settings = self.work / "run.json", self.settings
        options = {"seed": settings.seed, "model": digest(settings.model)}
        if path.exists():
            if not settings.resume:
                raise TrainingError(
                    f"{self.work} has a run already; continue it with --resume, or use another "
                    "--work"
                )
            if json.loads(path.read_text()) != options:
                raise TrainingError(
                    f"{self.work} belongs to a run of another model or seed; use the same, or "
                    "another --work folder"
                )
        write_json(path, options)

    def _write_pairs(self, denoiser: Any, autoencoder: Any, tokenizer: Any, size: int) -> float:
        """Write the pairs that are missing; return the minutes that all of them took."""
        settings, figures = self.settings, self.work / "pairs.json"
        if figures.exists():
            return float(json.loads(figures.read_text())["minutes"])
        if self.hardware.device.type == "cpu":
            use_plain_attention(denoiser)
        minutes = 0.0
        for folder, seeds, parts, seed in (
            ("held-out", HELD_OUT, settings.held_out_parts, settings.seed + 1),
            ("pairs", scenes.training_seeds(SCENES), settings.parts, settings.seed),
        ):
            teacher = Teacher(denoiser, autoencoder, tokenizer, seeds, size)
            minutes = teacher.write(
                self.work / folder,
                self.hardware,
                self.interrupts,
                minutes=TEACHER_SHARE * settings.minutes,
                parts=parts,
                seed=seed,
            )
        write_json(figures, {"minutes": minutes})
        return minutes

    def _trainer(self, denoiser: Denoiser, minutes: float) -> Trainer:
        settings = self.settings
        torch.manual_seed(settings.seed + 2)
        if self.hardware.device.type == "cpu":
            use_plain_attention(denoiser)
        add_lora(denoiser)
        plan = Plan(
            "lora",
            learning_rate=1e-3,
            batch_size=settings.batch_size,
            minutes=minutes,
            steps=settings.steps,
            seed=settings.seed,
            warmup_steps=5 if settings.steps else 100,
            weight_decay=0.0,
            log_seconds=settings.log_seconds,
        )
        trainer = Trainer(plan, denoiser, self.hardware, self.work / "lora")
        trainer.resume()
        return trainer

    def _write_samples(self, trainer: Trainer, autoencoder: Any, tokenizer: Any) -> None:
        """Write the sheet of one step (above) and of four steps."""
        with trainer.ema_weights() as model:
            pictures = [
                picture
                for steps in (1, 4)
                for picture in few_step_sample(
                    model, autoencoder, tokenizer, list(SAMPLE_CAPTIONS), steps
                )
            ]
            error = self._held_out_error(model)
        write_sheet(self.work / f"samples-{trainer.progress.step:06}.png", pictures)
        print(f"lora  held-out error {error:.4f}", flush=True)

    @torch.inference_mode()
    def _held_out_error(self, model: Any) -> float:
        """Return the mean absolute error of the clean latents, over all noise levels."""
        losses = []
        for i in range(max(1, len(self.held_out.noisy) // 256)):
            batch = draw_pairs(self.held_out, 64, generator(0, "held out", i))
            batch = PairBatch(*(t.to(self.hardware.device) for t in batch))
            losses.append(pair_loss(model, batch))
        return float(torch.stack(losses).mean())

    def _export(self, trainer: Trainer, minutes: float) -> None:
        settings, progress = self.settings, trainer.progress
        with trainer.ema_weights() as model:
            run = {
                "seed": settings.seed,
                "guidance": GUIDANCE,
                "rank": RANK,
                "hardware": str(self.hardware),
                "scenes": len(self.pairs.clean),
                "pairs": len(self.pairs.noisy),
                "teacher_minutes": minutes,
                "steps": progress.step,
                "batch": trainer.plan.batch_size,
                "minutes": progress.seconds / 60,
                "loss": progress.loss,
                "held_out": self._held_out_error(model),
                "model": digest(settings.model),
            }
            with atomic_folder(settings.out) as new:
                write_lora(new, model.unet)
                write_json(new / RUNS, run)
                (new / "README.md").write_text(card(run))
        size = (settings.out / WEIGHTS).stat().st_size
        print(f"wrote {settings.out} ({size / 1e6:.2f} MB): held-out error {run['held_out']:.4f}")


def card(run: Mapping[str, Any]) -> str:
    """Return the card of a LoRA; `run` is the record of its training."""
    return _CARD.read_text().format(**run)


def _replaceable(folder: Path) -> bool:
    return folder.is_dir() and ((folder / WEIGHTS).exists() or not any(folder.iterdir()))
