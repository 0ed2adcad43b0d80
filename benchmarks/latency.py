"""One edit at a time: cold start, edits of new pictures, next edits of the same picture."""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Annotated, Any

import torch

from benchmarks import accuracy, options
from benchmarks.configuration import DEFAULT, Configuration, open_pipeline
from benchmarks.host_waits import host_waits
from benchmarks.machine import machine
from benchmarks.report import progress
from benchmarks.schema import Measurement, Result
from benchmarks.timing import percentiles
from benchmarks.workload import Workload, whole
from diffedit import DiffEditPipeline, EditResult

ColdStarts = Annotated[
    int, options.option(options.WORK, "Processes started for the cold start.", min=0)
]
Check = Annotated[bool, options.option(options.WORK, "Compare the latents with fp32.")]


def latency(
    load: Workload,
    chosen: Configuration = DEFAULT,
    repeats: options.Repeats = 5,
    cold_starts: ColdStarts = 3,
    check: Check = True,
) -> Result:
    """Time one edit at a time: cold start, new pictures, next edits of the same picture.

    Cold starts run in new processes: opening the model, and the time until the first picture. An
    edit of a new picture runs all stages; the next edit of the same picture reuses its encoding.
    The latents are compared with those of PyTorch in fp32.

    A model with random weights needs a lower --threshold.

    Example: python -m benchmarks latency --model sd15 --size 512 --steps 10 --threshold 0.3
    """
    rows = cold(load, chosen, cold_starts)
    pipe = open_pipeline(load.model, chosen, load.size)
    with pipe:
        first = _edit(pipe, load, fresh=True)  # warms up
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        progress(f"latency: {repeats} edits of a new picture")
        fresh = [_edit(pipe, load, fresh=True) for _ in range(repeats)]
        progress(f"latency: {repeats} next edits of the same picture")
        following = [_edit(pipe, load, fresh=False) for _ in range(repeats)]
        memory, description = _peak_memory(), pipe.describe()
        pipe.cache_clear()
        waits = host_waits(pipe, load.request()) if pipe.networks.device.type == "cuda" else None
    quality = _compared(load, first) if check else {}
    rows += [*_stages("new picture", fresh, quality), *_stages("same picture", following, {})]
    rows.append(Measurement("peak memory", memory, "GiB", statistic="maximum"))
    if waits is not None:
        places = dict(waits.most_common(10))
        rows.append(Measurement("host waits an edit", waits.total(), extras={"places": places}))
    return Result(
        "latency", machine(), load.settings(), {"backend": description}, load.facts(), tuple(rows)
    )


def _edit(pipe: DiffEditPipeline, load: Workload, *, fresh: bool) -> EditResult:
    """The edit, of a picture that the pipeline has not seen, or of the last one."""
    if fresh:
        pipe.cache_clear()
    return whole(pipe.submit(load.request()).result())


def _stages(
    picture: str, results: list[EditResult], quality: dict[str, float]
) -> Iterator[Measurement]:
    """The seconds of every stage and of the whole edit; rows and calls with the whole."""
    for stage in results[0].stats.seconds:
        seconds = [result.stats.seconds[stage] for result in results]
        extras: dict[str, Any] = percentiles(seconds, 95)
        if stage == "total":
            extras |= {"rows": results[0].stats.rows, "calls": results[0].stats.calls}
            extras |= {"quality": quality} if quality else {}
        labels = {"picture": picture, "stage": stage}
        yield Measurement.of("edit", seconds, "s", labels, **extras)


def _compared(load: Workload, result: EditResult) -> dict[str, float]:
    """The mask and the latents against those of PyTorch in fp32."""
    progress("latency: the same edit in fp32, for comparison")
    pipe = open_pipeline(load.model, Configuration(dtype="fp32"), load.size)
    with pipe:
        exact = whole(pipe.submit(load.request()).result())
    return accuracy.quality(result.latent_mask, result.latents, exact.latent_mask, exact.latents)


def cold(load: Workload, chosen: Configuration, processes: int) -> list[Measurement]:
    """Opening the model and the first picture, each in a new process."""
    times = []
    for number in range(processes):
        progress(f"latency: cold start {number + 1} of {processes}")
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=spawn) as pool:
            times.append(pool.submit(_cold_start, load, chosen).result())
    if not times:
        return []
    opened, first = zip(*times, strict=True)
    return [
        Measurement.of("open the model in a new process", opened),
        Measurement.of("first picture in a new process", first),
    ]


def _cold_start(load: Workload, chosen: Configuration) -> tuple[float, float]:
    """Seconds until the model is open, and until the first picture."""
    began = time.perf_counter()
    pipe = open_pipeline(load.model, chosen, load.size)
    with pipe:
        opened = time.perf_counter() - began
        whole(pipe.submit(load.request()).result())
        return opened, time.perf_counter() - began


def _peak_memory() -> float:
    """The most memory that the GPU, or this process, has used: GiB."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**30, 2)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
