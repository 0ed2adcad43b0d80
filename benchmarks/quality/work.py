"""The edits, spread over processes; each finished part is a file, so that a run can be resumed.

A part is one setting on a few cases: an .npz of the outcomes. Figures are computed from the parts
afterwards, so a new figure or judge needs no new edits.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import shutil
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from dataclasses import astuple, dataclass, replace
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
from benchmarks.quality.shift_tolerant import PerceptualDistance
from benchmarks.report import remaining
from demo.judge import Judge
from engine.checkpoint import Checkpoint

CHUNK = 20

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
    facts += [diffedit.__version__, torch.__version__, "outcomes, 4"]
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
    chunk: int = CHUNK,
) -> dict[str, Columns]:
    """Every figure of every case under every setting: name -> figure -> one value a case.

    A part has `chunk` cases, and the first of them also runs alone, for its rows and seconds.
    Without `resume` the parts of an earlier run are removed first. Raises what an editor raises;
    finished parts are kept.
    """
    folder = work_folder(root, model, configuration)
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    chunks = [tuple(seeds[i : i + chunk]) for i in range(0, len(seeds), chunk)]
    threads = max(1, (os.cpu_count() or 1) // workers)
    jobs = [Job(folder, model, configuration, tuple(settings), chunk, threads) for chunk in chunks]
    missing = [path for job in jobs for s in settings if not (path := job.path(s)).exists()]
    if missing:
        _run(jobs, missing, workers)
    checkpoint, judge = Checkpoint.open(model), Judge.open()
    cases = [case(seed, checkpoint.family.native_size) for seed in seeds]
    found = {}
    for setting in settings:
        outcomes = [outcome for job in jobs for outcome in load(job.path(setting))]
        found[setting.name] = _figures(setting, cases, outcomes, judge, checkpoint)
    return found


def _figures(
    setting: Setting,
    cases: Sequence[Case],
    outcomes: Sequence[Outcome],
    judge: Judge,
    checkpoint: Checkpoint,
) -> Columns:
    """One value a case of every figure; pictures and heatmaps where the setting keeps them."""
    rows, perceptual = [], PerceptualDistance.open()
    for one, outcome in zip(cases, outcomes, strict=True):
        found = figures(setting, one, outcome, judge, checkpoint.family.factor, perceptual)
        found |= {"rows": outcome.rows, "seconds": outcome.seconds}
        kept = {name: value for name, value in vars(outcome).items() if value is not None}
        rows.append({"seed": one.seed, **found, **(kept if setting.keep else {})})
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _run(jobs: Sequence[Job], missing: Sequence[Path], workers: int) -> None:
    """Run all jobs in one or more processes, and show how many parts are there.

    Ctrl-C and errors end the processes at once.
    """
    with remaining(f"quality: parts of {len(jobs[0].seeds)} edits", len(missing)) as show:
        if workers == 1:
            done = itertools.count(1)
            for job in jobs:
                run_job(job, lambda: show(next(done)))
        else:
            _run_processes(jobs, workers, lambda: show(sum(path.exists() for path in missing)))


def _run_processes(jobs: Sequence[Job], workers: int, show: Callable[[], None]) -> None:
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_ignore_interrupts)
    try:
        running = {pool.submit(run_job, job) for job in jobs}
        while running:
            ended, running = wait(running, timeout=1, return_when=FIRST_EXCEPTION)
            for job in ended:
                job.result()
            show()
    except BaseException:
        for process in list(getattr(pool, "_processes", {}).values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def run_job(job: Job, done: Callable[[], None] = lambda: None) -> None:
    """Compute every part of the job that has no file yet; calls `done` after each."""
    torch.set_num_threads(job.threads)
    editors = Editors(job.model, job.configuration)
    size = Checkpoint.open(job.model).family.native_size
    cases = [case(seed, size) for seed in job.seeds]
    missing = [setting for setting in job.settings if not job.path(setting).exists()]
    try:
        for setting in missing:
            first, *others = editors.run(setting, cases)
            if math.isnan(first.rows):
                rows, seconds = editors.alone(setting, cases[0])
                first = replace(first, rows=rows, seconds=seconds)
            save(job.path(setting), [first, *others], setting)
            done()
    finally:
        editors.close()


def save(path: Path, outcomes: Sequence[Outcome], setting: Setting) -> None:
    """Write a part, whole or not at all; heatmaps only where the setting keeps them."""
    names = ["after", "mask", "blend", "rows", "seconds", *(["heatmap"] if setting.keep else [])]
    columns = {name: [getattr(outcome, name) for outcome in outcomes] for name in names}
    arrays = {name: np.array(column) for name, column in columns.items() if column[0] is not None}
    part = path.with_suffix(f".{os.getpid()}.part")
    with part.open("wb") as file:
        np.savez_compressed(file, **cast(Any, arrays))
    os.replace(part, path)


def load(path: Path) -> list[Outcome]:
    """The outcomes that `save` wrote."""
    with np.load(path) as file:
        columns = {name: file[name] for name in file.files}
    rows = zip(*columns.values(), strict=True)
    return [Outcome(**dict(zip(columns, row, strict=True))) for row in rows]


def _ignore_interrupts() -> None:
    """Leave Ctrl-C to the parent process, which ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
