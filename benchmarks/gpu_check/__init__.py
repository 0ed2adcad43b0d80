"""All measurements that need a GPU, in steps of at most nine minutes.

Each step runs in a separate process, so that a CUDA error or a hang ends only that step, and writes
one result file. The same command continues where the last one ended: a step with a result of the
same commit and settings is not run again. The packages torch, transformers, diffusers, rich and
typer are enough; steps that need another package are listed as not run.
"""

from __future__ import annotations

import multiprocessing
import os
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch

from benchmarks import options, schema
from benchmarks.gpu_check import engines, exactness, runtime, sdxl, server, speed, variants
from benchmarks.gpu_check.setup import RANDOM_THRESHOLD, Found, Setup
from benchmarks.machine import machine, source
from benchmarks.report import progress, table
from benchmarks.schema import NotRun, Result, ResultError
from benchmarks.workload import model_facts
from engine.errors import DiffEditError

STEPS: dict[str, Callable[[Setup], Found]] = {
    "correctness": exactness.correctness,
    "graphs": exactness.graphs,
    "syncs": runtime.syncs,
    "latency": speed.one_edit,
    "presets": speed.presets,
    "ladder": speed.eager,
    "sharing": runtime.sharing,
    "cancel": runtime.cancel,
    "throughput": speed.clients,
    "roofline": speed.every_profile,
    "variants": variants.variants,
    "compiled": speed.compiled,
    "server": server.server,
    "sdxl": sdxl.sdxl,
    "onnxruntime": engines.onnxruntime,
    "tensorrt": engines.tensorrt,
    "tensorrt-rtx": engines.tensorrt_rtx,
    "tests": engines.gpu_tests,
}
STEP_SECONDS = 540.0
NO_GPU = (
    "PyTorch sees no CUDA device here, and gpu-check measures on one; `diffedit-trt doctor` says "
    "more. For a dry run on the CPU with tiny networks, add --rehearse."
)

Model = Annotated[
    Path | None,
    options.option(options.WORK, "A checkpoint. [default: Stable Diffusion 1.5's size, random]"),
]
Threshold = Annotated[
    float | None, options.option(options.WORK, "Mask threshold. [default: 0.3 for a random model]")
]
Chosen = Annotated[Any, options.choices(options.WORK, "Steps to run", STEPS)]
Rehearse = Annotated[
    bool, options.option(options.WORK, "A dry run on the CPU, tiny networks.", "--rehearse")
]
Again = Annotated[bool, options.option(options.OUTPUT, "Run finished steps again.", "--again")]
Out = Annotated[Path, options.option(options.OUTPUT, "Folder of the steps' results.")]
Minutes = Annotated[
    float | None,
    options.option(options.WORK, "Stop after this time; run the same command again to continue."),
]


def gpu_check(
    model: Model = None,
    size: options.Size = None,
    step: Chosen = tuple(STEPS),
    out: Out = Path("build/gpu-check"),
    again: Again = False,
    minutes: Minutes = None,
    threshold: Threshold = None,
    rehearse: Rehearse = False,
) -> list[Result]:
    """Check and measure everything that needs a GPU, in steps of at most nine minutes.

    Example: python -m benchmarks gpu-check --step correctness,graphs --out build/gpu-check
    """
    if not rehearse and not torch.cuda.is_available():
        raise DiffEditError(NO_GPU)
    setup = prepared(model, size, out, rehearse, threshold)
    ends = time.monotonic() + 60 * minutes if minutes else float("inf")
    for name in step:
        path = out / f"{name}.json"
        if finished(path, setup) and not again:
            progress(f"gpu-check: {name} is finished: {path}")
            continue
        left = ends - time.monotonic()
        if left <= 0 or not _run(name, setup, path, min(STEP_SECONDS, left)):
            progress("gpu-check: the time is over; run the same command again to continue")
            break
        print(f"\n{name}\n{table(schema.load(path)[0])}", flush=True)
    paths = [out / f"{name}.json" for name in STEPS]
    return [schema.load(path)[0] for path in paths if finished(path, setup)]


def prepared(
    model: Path | None, size: Any, out: Path, rehearse: bool, threshold: float | None = None
) -> Setup:
    """The setup, with a random checkpoint where no model is named."""
    out.mkdir(parents=True, exist_ok=True)
    chosen = threshold if threshold is not None else RANDOM_THRESHOLD if model is None else 0.5
    setup = Setup(model or out, size, out, "cuda", threshold=chosen, rehearse=rehearse)
    if model is None:
        setup = replace(setup, model=setup.random_model("sd15", "tiny"))
    if rehearse:
        small: dict[str, Any] = {"steps": 4, "maps": 2, "batches": (1, 2), "repeats": 3}
        return replace(setup, device="cpu", **small)
    return setup


def settings(name: str, setup: Setup) -> dict[str, Any]:
    """The settings that two results of a step must have in common."""
    load = setup.load.settings()
    return {"step": name, **load, "batches": list(setup.batches), "rehearse": setup.rehearse}


def finished(path: Path, setup: Setup) -> bool:
    """Whether a step has a result of this commit, model and settings."""
    try:
        (result,) = schema.load(path)
    except (ResultError, ValueError):
        return False
    same = result.settings == settings(path.stem, setup) and result.model == model_facts(
        setup.model
    )
    return same and (result.machine.commit, result.machine.dirty) == source()


def _run(name: str, setup: Setup, path: Path, seconds: float) -> bool:
    """Run a step in its own process. False if it has to run again in the next command."""
    progress(f"gpu-check: {name}, at most {seconds:.0f} s")
    path.unlink(missing_ok=True)
    process = multiprocessing.get_context("spawn").Process(
        target=run_step, args=(name, setup, path), name=name
    )
    process.start()
    process.join(seconds)
    timed_out = process.is_alive()
    if timed_out:
        process.kill()
        process.join()
        if seconds < STEP_SECONDS:
            return False
    if not path.exists():
        ended = f"it ended with {process.exitcode}"
        reason = f"it took longer than {seconds:.0f} s" if timed_out else ended
        save(name, setup, path, Found(not_run=(NotRun(name, reason),)))
    return True


def run_step(name: str, setup: Setup, path: Path) -> None:
    """Run one step in this process. Its error becomes the reason why it did not run."""
    source()  # before anything is measured
    if setup.rehearse:
        os.environ["TORCHDYNAMO_DISABLE"] = "1"  # compiling tiny networks takes minutes on a CPU
    try:
        found = STEPS[name](setup)
    except Exception as error:
        traceback.print_exc()
        reason = f"{type(error).__name__}: {error}"
        found = Found(not_run=(NotRun(name, reason),))
    save(name, setup, path, found)


def save(name: str, setup: Setup, path: Path, found: Found) -> None:
    """Write the result of a step."""
    result = Result(
        f"gpu-check {name}",
        machine(),
        settings(name, setup),
        {"backend": found.configuration},
        model_facts(setup.model),
        found.measurements,
        found.checks,
        found.not_run,
    )
    schema.save(path, [result])
