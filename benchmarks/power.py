"""Joules that a piece of work took, where the machine tells: the GPU's driver, else the processor.

A GPU's power is sampled by nvidia-smi ten times a second and summed up; a processor counts its
energy itself (RAPL, readable where the administrator allows it). Whole devices are metered: nothing
else should run on them meanwhile.
"""

from __future__ import annotations

import itertools
import shutil
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import torch

INTERVAL_MS = 100
RAPL = Path("/sys/class/powercap")


class Meter:
    """A context; `joules` afterwards, or None where nothing tells."""

    def __init__(self, *, cuda: bool | None = None, rapl: Path = RAPL) -> None:
        self.joules: float | None = None
        self._cuda = torch.cuda.is_available() if cuda is None else cuda
        self._rapl = rapl
        self._sampler: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._samples: list[tuple[float, float]] = []
        self._before: dict[Path, int] = {}

    def __enter__(self) -> Meter:
        tool = shutil.which("nvidia-smi") if self._cuda else None
        if tool is not None:
            self._sample(
                [tool, "--id=0", "--query-gpu=power.draw", "--format=csv,noheader,nounits"]
            )
        elif not self._cuda:
            self._before = counters(self._rapl)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._sampler is not None and self._reader is not None:
            self._sampler.terminate()
            self._sampler.wait()
            self._reader.join()
            self.joules = summed([*self._samples, (time.perf_counter(), float("nan"))])
        elif self._before:
            after = counters(self._rapl)
            used = [
                passed(before, after[domain], _range(domain))
                for domain, before in self._before.items()
                if domain in after
            ]
            self.joules = sum(used) / 1e6 if used else None

    def _sample(self, command: Sequence[str]) -> None:
        """Read one number a line until the tool ends."""
        try:
            self._sampler = subprocess.Popen(
                [*command, f"-lms={INTERVAL_MS}"],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        except OSError:
            return
        self._reader = threading.Thread(target=self._read, args=(self._sampler,), daemon=True)
        self._reader.start()

    def _read(self, sampler: subprocess.Popen[str]) -> None:
        assert sampler.stdout is not None
        with sampler.stdout as lines:
            for line in lines:
                try:
                    watts = float(line)
                except ValueError:
                    return  # "[N/A]": this GPU does not tell
                self._samples.append((time.perf_counter(), watts))


def summed(samples: Sequence[tuple[float, float]]) -> float | None:
    """Joules of (second, watts) samples: each holds until the next; the last only says when."""
    if len(samples) < 3:
        return None
    spans = itertools.pairwise(samples)
    return sum(watts * (until - since) for (since, watts), (until, _) in spans)


def counters(folder: Path) -> dict[Path, int]:
    """Microjoules of every processor package so far; empty where they may not be read."""
    found = {}
    for domain in sorted(folder.glob("intel-rapl:?")):  # AMD's processors count under this name too
        try:
            found[domain] = int((domain / "energy_uj").read_text())
        except (OSError, ValueError):
            continue
    return found


def passed(before: int, after: int, limit: int) -> int:
    """Of a counter that starts anew at its limit."""
    return after - before if after >= before else after - before + limit


def _range(domain: Path) -> int:
    try:
        return int((domain / "max_energy_range_uj").read_text())
    except (OSError, ValueError):
        return 0
