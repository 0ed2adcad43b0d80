"""The edits, spread over processes; each finished part is a file, so that a run can be resumed.

A part is one setting on a few cases: an .npz of the outcomes. Figures are computed from the parts
afterwards, so a new figure or judge needs no new edits.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import signal
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import astuple, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

import diffedit
from benchmarks.configuration import Configuration
from benchmarks.quality.cases import Case, case
from benchmarks.quality.editors import Editors, Outcome
from benchmarks.quality.figures import figures
from benchmarks.quality.settings import Setting
from benchmarks.report import progress
from demo.judge import Judge
from engine.checkpoint import Checkpoint

CHUNK = 20
LINE_SECONDS = 20.0

Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Job:
    """Some cases under every setting, in an order that reuses trajectories."""

    folder: Path
    model: Path
    configuration: Configuration
    settings: tuple[Setting, ...]
    seeds: tuple[int, ...]
    threads: int

    def path(self, setting: Setting) -> Path:
        return part_path(self.folder, setting, self.seeds)


def part_path(folder: Path, setting: Setting, seeds: Sequence[int]) -> Path:
    """The file of the part of these cases under this setting."""
    key = hashlib.sha256(setting.key.encode()).hexdigest()[:12]
    kept = "-kept" if setting.keep else ""
    return folder / f"{key}{kept}-{seeds[0]}-{len(seeds)}.npz"


def work_folder(root: Path, model: Path, configuration: Configuration) -> Path:
    """The folder for parts of this model on this backend by this version of the program."""
    checkpoint = Checkpoint.open(model)
    facts = [*checkpoint.digests().values()]
    facts += [str(value) for value in astuple(configuration)]
    facts += [diffedit.__version__, torch.__version__, "outcomes"]
    return root / hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def measure(
    model: Path,
    configuration: Configuration,
    settings: Sequence[Setting],
    seeds: Sequence[int],
    *,
    root: Path,
    workers: int,
    resume: bool,
) -> dict[str, Columns]:
    """Every figure of every case under every setting: name -> figure -> one value a case.

    Without `resume` the parts of an earlier run are removed first. Raises what an editor raises;
    finished parts are kept.
    """
    folder = work_folder(root, model, configuration)
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    chunks = [tuple(seeds[i : i + CHUNK]) for i in range(0, len(seeds), CHUNK)]
    threads = max(1, (os.cpu_count() or 1) // workers)
    jobs = [Job(folder, model, configuration, tuple(settings), chunk, threads) for chunk in chunks]
    if any(not job.path(s).exists() for job in jobs for s in settings):
        _run(jobs, workers)
    checkpoint, judge = Checkpoint.open(model), Judge.open()
    cases = {job.seeds: [case(s, checkpoint.family.native_size) for s in job.seeds] for job in jobs}
    return {
        setting.name: _joined(
            [
                _figures(setting, cases[job.seeds], load(job.path(setting)), judge, checkpoint)
                for job in jobs
            ]
        )
        for setting in settings
    }


def _figures(
    setting: Setting,
    cases: Sequence[Case],
    outcomes: Sequence[Outcome],
    judge: Judge,
    checkpoint: Checkpoint,
) -> Columns:
    """One value a case of every figure; pictures and heatmaps where the setting keeps them."""
    rows = []
    for one, outcome in zip(cases, outcomes, strict=True):
        row: dict[str, Any] = {"seed": one.seed}
        row |= figures(setting, one, outcome, judge, checkpoint.family.factor)
        if setting.keep:
            row |= {"after": outcome.after, "mask": outcome.mask}
            row |= {"heatmap": outcome.heatmap} if outcome.heatmap is not None else {}
        rows.append(row)
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _run(jobs: Sequence[Job], workers: int) -> None:
    """Run all jobs in one or more processes, and print the progress."""
    shown = _Progress(jobs)
    if workers == 1:
        for job in jobs:
            run_job(job, shown.show)
        return
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_ignore_interrupts)
    try:
        waiting = {pool.submit(run_job, job) for job in jobs}
        while waiting:
            done, waiting = wait(waiting, timeout=1.0, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
            shown.show()
    except BaseException:
        for process in list(getattr(pool, "_processes", {}).values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def run_job(job: Job, after_each: Any = lambda: None) -> None:
    """Compute every part of the job that has no file yet."""
    torch.set_num_threads(job.threads)
    editors = Editors(job.model, job.configuration)
    size = Checkpoint.open(job.model).family.native_size
    cases = [case(seed, size) for seed in job.seeds]
    try:
        for setting in job.settings:
            path = job.path(setting)
            if path.exists():
                continue
            save(path, list(editors.run(setting, cases)), setting)
            after_each()
    finally:
        editors.close()


def save(path: Path, outcomes: Sequence[Outcome], setting: Setting) -> None:
    """Write a part, whole or not at all; heatmaps only where the setting keeps them."""
    part, arrays = path.with_suffix(f".{os.getpid()}.part"), {}
    if setting.editor == "mask":
        arrays["shape"] = np.array(outcomes[0].after.shape)
    else:
        arrays["after"] = np.array([outcome.after for outcome in outcomes])
    if outcomes[0].mask is not None:
        arrays["mask"] = np.array([outcome.mask for outcome in outcomes])
    if setting.keep and outcomes[0].heatmap is not None:
        arrays["heatmap"] = np.array([outcome.heatmap for outcome in outcomes])
    with part.open("wb") as file:
        np.savez_compressed(file, **cast(Any, arrays))
    os.replace(part, path)


def load(path: Path) -> list[Outcome]:
    """The outcomes that `save` wrote; the pictures of masks alone are black."""
    with np.load(path) as file:
        found = {name: file[name] for name in file.files}
    if "after" not in found:
        count = len(found["mask"])
        found["after"] = np.zeros((count, *found.pop("shape")), np.uint8)
    return [
        Outcome(**{name: values[i] for name, values in found.items()})
        for i in range(len(found["after"]))
    ]


class _Progress:
    """Prints the share of finished work every `LINE_SECONDS`."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._paths = [(j.path(s), _cost(s)) for j, s in itertools.product(jobs, jobs[0].settings)]
        self._began = self._last = time.monotonic()
        self._first = self._done()

    def _done(self) -> float:
        return sum(cost for path, cost in self._paths if path.exists())

    def show(self) -> None:
        now = time.monotonic()
        if now - self._last < LINE_SECONDS:
            return
        self._last, done = now, self._done()
        total = sum(cost for _, cost in self._paths)
        rate = (done - self._first) / (now - self._began)
        left = f"about {(total - done) / rate / 60:.1f} min left" if rate else "starting"
        progress(f"quality: {100 * done / total:3.0f} %, {left}")


def _cost(setting: Setting) -> float:
    """Rough number of network rows of an edit, to estimate the remaining time."""
    steps = setting.options.get("num_inference_steps", setting.options.get("steps", 50))
    depth = steps * setting.options.get("strength", 0.8)
    if setting.editor == "diffusers":
        return float(6 * depth + 40)  # small calls, fp32
    if setting.editor == "mask":
        return 20.0
    return float(2 * depth + 30) if setting.editor == "ours" else 2.0


def _ignore_interrupts() -> None:
    """Leave Ctrl-C to the parent process, which ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _joined(parts: Sequence[Columns]) -> Columns:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
