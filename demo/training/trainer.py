"""Train one model on accelerate: AdamW, warm-up and cosine, EMA, checkpoints, progress lines.

Training ends after a number of steps or minutes. The random numbers of a step depend only on the
seed, the stage and the step, so a resumed run equals one that was never interrupted.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import send_to_device  # type: ignore[import-untyped]
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, IterableDataset

from demo.training import TrainingError
from demo.training.files import atomic_folder
from demo.training.hardware import Hardware
from demo.training.interrupts import Interrupted, Interrupts

Draw = Callable[[int, torch.Generator], Any]
"""Return a batch of the given size; a tuple of CPU tensors."""

Loss = Callable[[Any, Any], Tensor]
"""Return the scalar loss of a model and a batch on its device."""


@dataclass(frozen=True)
class Plan:
    """How to train: until `steps` are done if given, else until `minutes` have passed."""

    stage: str
    learning_rate: float
    batch_size: int
    minutes: float
    steps: int | None = None
    seed: int = 0
    warmup_steps: int = 200
    weight_decay: float = 0.01
    ema_decay: float = 0.999
    save_minutes: float = 3.0
    sample_minutes: float = 10.0
    log_seconds: float = 20.0


@dataclass
class Progress:
    """The position of a run. `history` has (step, minutes, mean loss) for each progress line;
    `losses` are those since the last line."""

    step: int = 0
    seconds: float = 0.0
    history: list[tuple[int, float, float]] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)

    @property
    def loss(self) -> float:
        """The mean loss of the last progress line."""
        return self.history[-1][2] if self.history else math.nan

    @property
    def logged_seconds(self) -> float:
        return 60 * self.history[-1][1] if self.history else 0.0


class Trainer:
    """A model with its optimizer, learning rate schedule and EMA weights.

    Checkpoints are folders `checkpoint-STEP` in `folder`; without a folder nothing is saved.
    """

    def __init__(self, plan: Plan, model: nn.Module, hardware: Hardware, folder: Path | None):
        self.plan, self.folder, self.progress = plan, folder, Progress()
        self.accelerator = hardware.accelerator()
        trained = [p for p in model.parameters() if p.requires_grad]
        weights = [p for p in trained if p.ndim > 1]
        others = [p for p in trained if p.ndim <= 1]  # biases and normalisations
        groups: list[dict[str, Any]] = [
            {"params": weights},
            {"params": others, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(
            groups,
            plan.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=plan.weight_decay,
            fused=True,
        )
        scheduler = LambdaLR(optimizer, lambda _: self._learning_rate_factor())
        self.model: Any
        self.model, self.optimizer, self.scheduler = self.accelerator.prepare(
            model, optimizer, scheduler
        )
        self.ema: Any = EMAModel(self.model.parameters(), decay=plan.ema_decay, foreach=True)

    @property
    def fraction_done(self) -> float:
        """The completed share of the run, 0..1."""
        if self.plan.steps is not None:
            return min(1.0, self.progress.step / self.plan.steps)
        return min(1.0, self.progress.seconds / max(1e-9, self.plan.minutes * 60))

    def run(
        self,
        draw: Draw,
        loss: Loss,
        interrupts: Interrupts,
        sample: Callable[[], None] = lambda: None,
    ) -> None:
        """Train to the end and call `sample` from time to time.

        Raises Interrupted, after a checkpoint was saved, if a signal arrives.
        """
        plan, progress = self.plan, self.progress
        batches = iter(DataLoader(_Batches(draw, plan, progress.step), batch_size=None))
        start = time.perf_counter() - progress.seconds
        saved = sampled = progress.seconds
        try:
            while self.fraction_done < 1:
                with interrupts.deferred():
                    self._step(loss, next(batches))
                    progress.seconds = time.perf_counter() - start
                    self.scheduler.step()
                    if progress.seconds - progress.logged_seconds >= plan.log_seconds:
                        self._log()
                    if progress.seconds - saved >= plan.save_minutes * 60:
                        self.save()
                        saved = progress.seconds
                if progress.seconds - sampled >= plan.sample_minutes * 60:
                    sample()
                    sampled = progress.seconds
            with interrupts.deferred():
                self._log()
                self.save()
            sample()
        except Interrupted:
            with contextlib.suppress(Interrupted), interrupts.deferred():
                self.save()
            raise

    def _step(self, loss: Loss, batch: Any) -> None:
        with self.accelerator.autocast():
            value = loss(self.model, send_to_device(batch, self.accelerator.device))
        self.accelerator.backward(value)
        self.accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.step(self.model.parameters())
        self.progress.step += 1
        self.progress.losses.append(value.detach())

    def _learning_rate_factor(self) -> float:
        """Warm-up by steps, then half a cosine by the completed share of the run.

        The cosine follows time, so the rate ends low on a machine of any speed.
        """
        warmup = min(1.0, (self.progress.step + 1) / self.plan.warmup_steps)
        return warmup * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * self.fraction_done)))

    def _log(self) -> None:
        """Print a progress line and record the mean loss since the last one."""
        plan, progress = self.plan, self.progress
        if not progress.losses:
            return
        count, seconds = len(progress.losses), progress.seconds - progress.logged_seconds
        mean = float(torch.stack(progress.losses).mean())
        progress.losses.clear()
        if not math.isfinite(mean):
            raise TrainingError(
                f"the loss of stage {plan.stage} is {mean} at step {progress.step}; resume from "
                "the last checkpoint with another seed, or start again with a lower learning rate"
            )
        progress.history.append((progress.step, progress.seconds / 60, mean))
        left = progress.seconds * (1 / max(1e-9, self.fraction_done) - 1) / 60
        print(
            f"{plan.stage:5} step {progress.step:6}  loss {mean:.4f}  "
            f"{count * plan.batch_size / max(1e-9, seconds):6.1f} images/s  "
            f"{100 * self.fraction_done:3.0f} %  {left:.1f} min left",
            flush=True,
        )

    def save(self) -> None:
        """Write a checkpoint completely or not at all, then delete older ones."""
        if self.folder is None:
            return
        checkpoint = self.folder / f"checkpoint-{self.progress.step:07}"
        older = [folder for folder in checkpoints(self.folder) if folder != checkpoint]
        with atomic_folder(checkpoint) as new:
            self.accelerator.save_state(str(new))
            state = {"ema": self.ema.state_dict(), "progress": vars(self.progress)}
            torch.save(state, new / "trainer.pt")
        for folder in older:
            shutil.rmtree(folder)

    def resume(self) -> bool:
        """Load the newest checkpoint; return whether there was one."""
        saved = checkpoints(self.folder) if self.folder else []
        if not saved:
            return False
        newest = saved[-1]
        try:
            self.accelerator.load_state(str(newest))
            state = torch.load(
                newest / "trainer.pt", map_location=self.accelerator.device, weights_only=True
            )
            self.ema.load_state_dict(state["ema"])
            self.progress = Progress(**state["progress"])
        except Exception as error:  # accelerate, safetensors and torch raise many types
            raise TrainingError(
                f"{newest} is not a complete checkpoint of this program; delete it"
            ) from error
        return True

    @contextlib.contextmanager
    def ema_weights(self) -> Iterator[Any]:
        """Yield the model with its EMA weights in evaluation mode; restore it afterwards."""
        self.ema.store(self.model.parameters())
        self.ema.copy_to(self.model.parameters())
        self.model.eval()
        try:
            yield self.accelerator.unwrap_model(self.model)
        finally:
            self.ema.restore(self.model.parameters())
            self.model.train()


class _Batches(IterableDataset[Any]):
    """The batches of the steps from `first_step` on, without an end."""

    def __init__(self, draw: Draw, plan: Plan, first_step: int) -> None:
        self.draw, self.plan, self.first_step = draw, plan, first_step

    def __iter__(self) -> Iterator[Any]:
        for step in itertools.count(self.first_step):
            yield self.draw(self.plan.batch_size, generator(self.plan.seed, self.plan.stage, step))


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in `folder`, oldest first."""
    return sorted(folder.glob("checkpoint-*"))


def generator(seed: int, purpose: str, number: int) -> torch.Generator:
    """Return a CPU generator that depends only on the arguments."""
    state = 0xCBF29CE484222325  # FNV-1a, because `hash` of a string differs between processes
    for byte in f"{seed} {purpose} {number} 0".encode():
        state = ((state ^ byte) * 0x100000001B3) & 0x7FFFFFFFFFFFFFFF
    return torch.Generator("cpu").manual_seed(state)
