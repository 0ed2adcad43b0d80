"""`diffedit-trt batch` with Ray workers against one process: the time of a line, and the start.

Every run is the command itself in a process of its own. A line's time is that between the first and
the last outcome, divided by the lines between them; so it holds neither Python's start nor
the model's loading, which are reported apart.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from benchmarks import options
from benchmarks.machine import machine
from benchmarks.report import progress, row
from benchmarks.schema import Check, Measurement, Result, rounded
from benchmarks.workload import NOTHING_FOUND, PROMPT, SOURCE, Workload
from engine.errors import DiffEditError

RATIO = 0.8
"""N workers with a core each should be at least this times N as fast as one process with a core."""

Lines = Annotated[int, options.option(options.WORK, "Edits in a run.", min=3)]
Actors = Annotated[int, options.option(options.WORK, "Workers of the largest run.", min=2)]


@dataclass(frozen=True)
class Run:
    """One way to run the command.

    Attributes:
        name: in the result.
        arguments: more options of the command.
        environment: more variables.
    """

    name: str
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


def batch(
    work: Workload,
    lines: Lines = 24,
    actors: Actors = 2,
    in_flight: Annotated[int, options.option(options.WORK, "As in the command.", min=1)] = 4,
    repeats: options.Repeats = 3,
) -> Result:
    """Measure `batch --ray` on this machine against `batch` in one process.

    Example: python -m benchmarks batch --steps 10 --size 256 --lines 24
    """
    one_core, name = {"OMP_NUM_THREADS": "1"}, f"{actors} workers, 1 core each"
    workers = ("--ray", "--ray-cpus", "1", "--ray-actors")
    runs = (
        Run("one process, all cores"),
        Run("one process, 1 core", environment=one_core),
        Run("1 worker, 1 core", (*workers, "1")),
        Run(name, (*workers, str(actors))),
    )
    line: dict[str, list[float]] = {run.name: [] for run in runs}
    start: dict[str, list[float]] = {run.name: [] for run in runs}
    for number in range(repeats):  # the runs take turns, so that a slow minute hits all of them
        for run in runs:
            first, each = _timed(work, run, lines, in_flight)
            progress(f"{number + 1} of {repeats}, {run.name}: {each:.3f} s a line")
            start[run.name].append(first)
            line[run.name].append(each)
    rows = [Measurement.of("line", found, "s", {"run": run}) for run, found in line.items()]
    rows += [
        Measurement.of("start to first outcome", found, "s", {"run": run})
        for run, found in start.items()
    ]
    middle = {run: statistics.median(found) for run, found in line.items()}
    alone = "one process, 1 core"
    overhead = 1000 * (middle["1 worker, 1 core"] - middle[alone])
    ratios = {other: middle[other] / middle[name] for other in (alone, "one process, all cores")}
    rows.append(Measurement("overhead of a line with Ray", rounded(overhead), "ms"))
    rows += [
        Measurement("speed of the workers, of one process", rounded(ratio), "", {"process": other})
        for other, ratio in ratios.items()
    ]
    for one in rows:
        progress(row(one))
    settings = {**work.settings(), "lines": lines, "actors": actors, "in_flight": in_flight}
    checks = _checks(actors, ratios[alone])
    return Result("batch", machine(), settings, {}, work.facts(), tuple(rows), checks)


def _checks(actors: int, ratio: float) -> tuple[Check, ...]:
    """The bound, where every worker has a core and one is left for the command and Ray."""
    if len(os.sched_getaffinity(0)) <= actors:
        return ()
    bound = RATIO * actors
    return (
        Check(f"{actors} workers are {ratio:.2f} times one (at least {bound:g})", ratio >= bound),
    )


def _timed(work: Workload, run: Run, lines: int, in_flight: int) -> tuple[float, float]:
    """Run the command; return the seconds to the first outcome, and those of a line after it."""
    with tempfile.TemporaryDirectory() as folder:
        edits = _write_edits(work, Path(folder), lines)
        command = [sys.executable, "-m", "diffedit.cli", "batch", str(edits), "-q"]
        command += ["--model", str(work.model.absolute()), "--in-flight", str(in_flight)]
        began = time.perf_counter()
        with subprocess.Popen(
            [*command, *run.arguments],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **run.environment},
        ) as process:
            assert process.stdout is not None
            times = [(time.perf_counter(), json.loads(text)) for text in process.stdout]
        failed = [outcome for _, outcome in times if outcome["status"] != "done"]
        if process.returncode or failed or len(times) != lines:
            raise DiffEditError(
                f"The run {run.name!r} ended with {process.returncode}: {failed[:1] or 'no line'}"
            )
    if not all(outcome["mask_share"] for _, outcome in times):
        raise DiffEditError(NOTHING_FOUND)
    first, last = times[0][0], times[-1][0]
    return first - began, (last - first) / (lines - 1)


def _write_edits(work: Workload, folder: Path, lines: int) -> Path:
    """Write the photograph and one line per seed."""
    work.image.save(folder / "in.png")
    edit: dict[str, Any] = {
        "image": "in.png",
        "prompt": PROMPT,
        "source_prompt": SOURCE,
        "num_inference_steps": work.steps,
        "strength": work.strength,
        "guidance_scale": work.guidance,
        "num_maps_per_mask": work.maps,
        "mask_threshold": work.threshold,
        "preset": "paper",
    }
    edits = folder / "edits.jsonl"
    rows = (json.dumps({**edit, "seed": seed, "out": f"{seed}.png"}) for seed in range(lines))
    edits.write_text("\n".join(rows))
    return edits
