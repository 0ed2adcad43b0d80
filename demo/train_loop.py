"""The loop both stages train with: schedule by time, EMA, saving, resuming, stopping.

Every random draw of a step is a function of (seed, stage, step), so a resumed run goes on with the
numbers it would have drawn. It knows nothing of pictures, captions or losses.
"""

from __future__ import annotations

import contextlib
import copy
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn


class TrainingError(Exception):
    """What keeps the training from going on, in one sentence."""


class Stopped(Exception):
    """A signal ended the run; its state is saved."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


@dataclass
class Stop:
    """The signal that asked the run to end, once one has."""

    number: int | None = None
    patient: bool = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        if not self.patient:
            raise Stopped(number)

    def check(self) -> None:
        if self.number is not None:
            raise Stopped(self.number)


@contextlib.contextmanager
def stoppable() -> Iterator[Stop]:
    """SIGINT and SIGTERM raise `Stopped`: at once, or while a step runs, after it."""
    stop = Stop()
    old = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@dataclass(frozen=True)
class Plan:
    """How one stage trains: until `steps` are done if given, else until `minutes` have passed."""

    stage: str
    rate: float
    batch: int
    minutes: float
    steps: int | None = None
    seed: int = 0
    warmup: int = 200
    ema: float = 0.999
    decay: float = 0.01
    save_minutes: float = 3.0
    sheet_minutes: float = 10.0
    line_seconds: float = 20.0


@dataclass
class Part:
    """A stage's state between its steps; `history` has (step, minutes, mean loss) per line."""

    step: int = 0
    seconds: float = 0.0
    history: list[tuple[int, float, float]] = field(default_factory=list)


class Training:
    """One stage: a model, its EMA and its optimizer, in a file that a later run goes on from."""

    def __init__(self, plan: Plan, model: nn.Module, path: Path, identity: dict[str, Any]) -> None:
        self.plan, self.model, self.path, self.identity = plan, model, path, identity
        self.ema = copy.deepcopy(model).requires_grad_(False).eval()
        decay = [p for p in model.parameters() if p.ndim > 1]
        plain = [p for p in model.parameters() if p.ndim <= 1]
        groups: list[dict[str, Any]] = [{"params": decay}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(
            groups, plan.rate, betas=(0.9, 0.99), weight_decay=plan.decay, fused=True
        )
        self.part = Part()
        self._losses: list[Tensor] = []

    @property
    def progress(self) -> float:
        """From 0 to 1."""
        part, plan = self.part, self.plan
        if plan.steps is not None:
            return min(1.0, part.step / plan.steps)
        return min(1.0, part.seconds / max(1e-9, plan.minutes * 60))

    def generator(self, purpose: int = 0) -> torch.Generator:
        """The CPU generator of this step, the same in every run."""
        return generator(self.plan.seed, self.plan.stage, self.part.step, purpose)

    def run(
        self,
        loss: Callable[[Training], Tensor],
        sheet: Callable[[Training], None],
        stop: Stop,
    ) -> None:
        """Train to the end; raises Stopped, with the state saved, when a signal comes."""
        try:
            self._run(loss, sheet, stop)
        except Stopped:
            stop.patient = True
            self.save()
            raise

    def _run(
        self,
        loss: Callable[[Training], Tensor],
        sheet: Callable[[Training], None],
        stop: Stop,
    ) -> None:
        plan, part = self.plan, self.part
        saved = drawn = printed = part.seconds
        while self.progress < 1:
            start = time.perf_counter()
            stop.patient = True
            self._step(loss(self))
            part.step += 1
            part.seconds += time.perf_counter() - start
            if part.seconds - printed >= plan.line_seconds:
                self._line(part.seconds - printed)
                printed = part.seconds
            if part.seconds - saved >= plan.save_minutes * 60:
                self.save()
                saved = part.seconds
            stop.patient = False
            stop.check()
            if part.seconds - drawn >= plan.sheet_minutes * 60:
                start = time.perf_counter()
                sheet(self)
                part.seconds += time.perf_counter() - start
                drawn = part.seconds
        stop.patient = True
        self._line(max(1e-9, part.seconds - printed))
        self.save()
        stop.patient = False
        stop.check()
        sheet(self)

    def _step(self, loss: Tensor) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.rate * self._shape()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self._losses.append(loss.detach())
        keep = min(self.plan.ema, (1 + self.part.step) / (10 + self.part.step))
        with torch.no_grad():
            pairs = zip(self.ema.parameters(), self.model.parameters(), strict=True)
            for slow, fast in pairs:
                slow.lerp_(fast, 1 - keep)

    def _shape(self) -> float:
        """Warm-up by steps, then half a cosine by time: however fast the machine, it ends low."""
        warm = min(1.0, (self.part.step + 1) / self.plan.warmup)
        return warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * self.progress)))

    def _line(self, seconds: float) -> None:
        """Print how it goes and keep the mean loss since the last line."""
        if not self._losses:
            return
        plan, part, count = self.plan, self.part, len(self._losses)
        mean = float(torch.stack(self._losses).mean())
        self._losses.clear()
        if not math.isfinite(mean):
            raise TrainingError(
                f"the {plan.stage}'s loss is {mean} at step {part.step}; resume from the last save "
                "with another seed, or start again with a lower rate"
            )
        part.history.append((part.step, round(part.seconds / 60, 2), mean))
        left = part.seconds * (1 / max(1e-9, self.progress) - 1) / 60
        print(
            f"{plan.stage:5} step {part.step:6}  loss {mean:.4f}  "
            f"{count * plan.batch / seconds:6.1f} images/s  "
            f"{100 * self.progress:3.0f} %  {left:.1f} min left",
            flush=True,
        )

    def save(self) -> None:
        """Write the state, whole or not at all."""
        state = {
            "identity": self.identity,
            "step": self.part.step,
            "seconds": self.part.seconds,
            "history": self.part.history,
            "pending": self._losses,
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        save(self.path, state)

    def load(self) -> bool:
        """Go on from the file if there is one; TrainingError if it belongs to another run."""
        if not self.path.exists():
            return False
        state = load(self.path, self.identity)
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.part = Part(state["step"], state["seconds"], [tuple(h) for h in state["history"]])
        device = next(self.model.parameters()).device
        self._losses = [loss.to(device) for loss in state["pending"]]
        return True


def generator(seed: int, stage: str, step: int, purpose: int = 0) -> torch.Generator:
    """A CPU generator that these four determine."""
    text = f"{seed} {stage} {step} {purpose}".encode()
    number = 0xCBF29CE484222325  # FNV-1a: `hash` differs from run to run
    for byte in text:
        number = ((number ^ byte) * 0x100000001B3) & 0x7FFFFFFFFFFFFFFF
    return torch.Generator("cpu").manual_seed(number)


def save(path: Path, state: dict[str, Any]) -> None:
    """`torch.save` beside, then rename; TrainingError where it cannot be written."""
    part = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, part)
        os.replace(part, path)
    except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError on a full disk
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        reason = str(error).split("\n")[0]
        raise TrainingError(f"cannot write {path} (is the disk full?): {reason}") from error


def load(path: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """The state in `path`; TrainingError if it cannot be read or belongs to another run."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        found = state["identity"]
    except Exception as error:  # torch raises many kinds for what is not one of its files
        raise TrainingError(f"{path} is no saved state of this program; delete it") from error
    for key, value in identity.items():
        if found.get(key) != value:
            raise TrainingError(
                f"{path} belongs to a run with {key} {found.get(key)}, not {value}; "
                "give the same options, or name another --work folder"
            )
    return state
