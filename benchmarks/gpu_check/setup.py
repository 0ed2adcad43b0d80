"""The input and the result of a step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.configuration import Configuration, open_pipeline
from benchmarks.report import progress
from benchmarks.schema import Check, Measurement, NotRun, Result
from benchmarks.workload import Workload
from demo.random_checkpoint import make
from diffedit import DiffEditPipeline
from engine.backends.torch.weights import default_precision
from engine.netspec import DENOISER_BATCH_SIZES, Precision, Size

RANDOM_THRESHOLD = 0.3
"""The mask threshold for random weights, which find nothing to edit at 0.5."""


@dataclass(frozen=True)
class Setup:
    """The model, the device and the size of the measurements.

    Attributes:
        device: such as "cuda"; "cpu" in a rehearsal.
        steps: N of the edits.
        maps: noises of their masks.
        batches: rows of the denoiser's calls.
        threshold: of the mask.
        rehearse: whether this is a dry run with tiny networks: targets of speed do not apply.
    """

    model: Path
    size: Size | None
    out: Path
    device: str
    steps: int = 50
    batches: tuple[int, ...] = DENOISER_BATCH_SIZES
    repeats: int = 5
    maps: int = 10
    threshold: float = 0.5
    rehearse: bool = False

    @property
    def load(self) -> Workload:
        """The edit: one picture, two texts, the paper's settings."""
        return Workload(self.model, self.size, self.steps, maps=self.maps, threshold=self.threshold)

    @property
    def precision(self) -> Precision:
        """The default precision of the device."""
        return default_precision(torch.device(self.device))

    def configuration(self, **options: Any) -> Configuration:
        """PyTorch on the device, with its defaults except `options`."""
        return Configuration(**{"device": self.device, "dtype": self.precision, **options})

    def random_model(self, kind: str, tiny: str) -> Path:
        """A checkpoint with random weights, made if it is not there; a tiny one in a rehearsal."""
        kind, dtype = (tiny, "fp32") if self.rehearse else (kind, "fp16")
        folder = self.out / f"model-{kind}"
        if not (folder / "model_index.json").exists():
            progress(f"gpu-check: making a random checkpoint of the kind {kind}")
            make(folder, kind, dtype=dtype)
        return folder

    def pipeline(self, **options: Any) -> DiffEditPipeline:
        """A pipeline of that configuration, with networks that count their calls."""
        return open_pipeline(self.model, self.configuration(**options), self.load.size)

    def target(self, text: str, met: bool) -> tuple[Check, ...]:
        """A target of speed; none in a rehearsal."""
        return () if self.rehearse else (Check(text, met),)


@dataclass(frozen=True)
class Found:
    """The result of a step."""

    measurements: tuple[Measurement, ...] = ()
    checks: tuple[Check, ...] = ()
    not_run: tuple[NotRun, ...] = ()
    configuration: str = ""

    @classmethod
    def of(cls, result: Result, *checks: Check) -> Found:
        """The result of another benchmark, with checks."""
        backend = result.configuration.get("backend", "")
        return cls(result.measurements, (*result.checks, *checks), result.not_run, backend)
