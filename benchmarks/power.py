"""Energy of a piece of work in joules, from the GPU's driver or from the processor's counters.

nvidia-smi samples a GPU's power ten times a second; a processor counts its energy itself (RAPL,
where the administrator lets it be read). Both measure the whole device, so nothing else should run.
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
    """A context that measures what runs inside; `joules` is None where there is no meter."""

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
                difference(before, after[domain], _range(domain))
                for domain, before in self._before.items()
                if domain in after
            ]
            self.joules = sum(used) / 1e6 if used else None

    def _sample(self, command: Sequence[str]) -> None:
        """Start nvidia-smi, and read one number a line in a thread."""
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
                    return  # "[N/A]": this GPU does not report its power
                self._samples.append((time.perf_counter(), watts))


def summed(samples: Sequence[tuple[float, float]]) -> float | None:
    """Joules of (second, watts) samples; each holds until the next, the last one ends the sum."""
    if len(samples) < 3:
        return None
    spans = itertools.pairwise(samples)
    return sum(watts * (until - since) for (since, watts), (until, _) in spans)


def counters(folder: Path) -> dict[Path, int]:
    """Microjoules of every processor package since some start; empty where not readable."""
    found = {}
    for domain in sorted(folder.glob("intel-rapl:?")):  # AMD's processors use this name too
        try:
            found[domain] = int((domain / "energy_uj").read_text())
        except (OSError, ValueError):
            continue
    return found


def difference(before: int, after: int, limit: int) -> int:
    """The difference of two readings of a counter that wraps around at `limit`."""
    return after - before if after >= before else after - before + limit


def _range(domain: Path) -> int:
    try:
        return int((domain / "max_energy_range_uj").read_text())
    except (OSError, ValueError):
        return 0
