"""Edits per second and waiting times with many clients, compared with one client.

Closed: each client sends its next edit when it has received the last one. Open: edits arrive by a
Poisson process at `arrivals` times the rate of one client. The edits differ in prompt, steps,
strength and seed.
"""

from __future__ import annotations

import functools
import random
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any

from benchmarks import options
from benchmarks.configuration import DEFAULT, Configuration, open_pipeline
from benchmarks.machine import machine
from benchmarks.networks import DENOISER, CountingNetworks
from benchmarks.report import progress, row
from benchmarks.schema import Measurement, Result
from benchmarks.timing import percentiles
from benchmarks.workload import Workload, whole
from diffedit import DiffEditPipeline, EditRequest

COLOURS = ("blue", "green", "yellow", "white", "black", "orange")

Clients = Annotated[Any, options.values(options.WORK, "Numbers of clients.")]
Edits = Annotated[int, options.option(options.WORK, "Edits in one timing.", min=1)]
Arrivals = Annotated[
    float, options.option(options.WORK, "Poisson arrivals: multiple of one client's rate.")
]


def throughput(
    load: Workload,
    chosen: Configuration = DEFAULT,
    repeats: options.Repeats = 3,
    clients: Clients = (1, 2, 4, 8, 16),
    edits: Edits = 32,
    arrivals: Arrivals = 1.2,
) -> Result:
    """Measure edits a second with several clients, closed and with Poisson arrivals.

    Example: python -m benchmarks throughput --clients 1,8 --edits 16 --steps 10
    """
    pipe = open_pipeline(load.model, chosen, load.size)
    run = _Run(pipe, mixed(load, edits), repeats)
    with pipe:
        whole(pipe.submit(run.requests[0]).result())  # warm up
        rows = [
            run.measure(f"{count} clients", functools.partial(_closed, pipe, count))
            for count in (1, *(count for count in clients if count != 1))
        ]
        alone = rows[0].value or 1.0
        open_loop = functools.partial(_poisson, pipe, arrivals * alone)
        rows.append(run.measure(f"Poisson, {arrivals:g} times that rate", open_loop))
        description = pipe.describe()
    for one in rows:
        one.extras["gain"] = round((one.value or 0) / alone, 3)
    settings = {**load.settings(), "edits": edits, "arrivals": arrivals}
    return Result(
        "throughput", machine(), settings, {"backend": description}, load.facts(), tuple(rows)
    )


def mixed(work: Workload, count: int) -> list[EditRequest]:
    """Edits that differ in prompt, steps, strength and seed; the same ones every time."""
    draw = random.Random(0)
    found = []
    for seed in range(count):
        prompt = f"a {draw.choice(COLOURS)} ball and a green cube on a wooden table"
        steps = max(2, round(work.steps * draw.choice((0.6, 0.8, 1.0))))
        strength = draw.choice((0.5, 0.65, 0.8))
        found.append(
            work.request(seed=seed, prompt=prompt, num_inference_steps=steps, strength=strength)
        )
    return found


Answers = list[tuple[float, int]]
"""Of every edit: the seconds from when it was due, and the denoiser's rows that it needs."""
Send = Callable[[Sequence[EditRequest]], Answers]


def _edit(pipe: DiffEditPipeline, request: EditRequest, due: float) -> tuple[float, int]:
    """One edit; returns its entry in `Answers`."""
    result = whole(pipe.submit(request).result())
    return time.perf_counter() - due, result.stats.rows[DENOISER]


@dataclass(frozen=True)
class _Run:
    """The same requests, sent by different clients."""

    pipe: DiffEditPipeline
    requests: Sequence[EditRequest]
    repeats: int

    def measure(self, clients: str, send: Send) -> Measurement:
        """Send all requests several times to a pipeline with an empty cache."""
        every = [self._once(send) for _ in range(self.repeats)]
        waits = [second for one in every for second in one["waits"]]
        counts = ("rows_per_second", "rows_shared", "rows_per_call", "padding")
        extras = percentiles(waits, 50, 95, 99) | {
            name: round(statistics.median(one[name] for one in every), 4) for name in counts
        }
        rates = [len(self.requests) / one["seconds"] for one in every]
        found = Measurement.of("throughput", rates, "edits/s", {"clients": clients}, **extras)
        progress(row(found))
        return found

    def _once(self, send: Send) -> dict[str, Any]:
        """One timing. Edits of one picture share rows, so fewer rows run than the edits need."""
        self.pipe.cache_clear()
        assert isinstance(self.pipe.networks, CountingNetworks)
        sizes = self.pipe.networks.calls[DENOISER]
        sizes.clear()
        before = self.pipe.batcher.padded_rows(DENOISER)
        began = time.perf_counter()
        answers = send(self.requests)
        taken = time.perf_counter() - began
        padding = self.pipe.batcher.padded_rows(DENOISER) - before
        needed, run = sum(rows for _, rows in answers), sum(sizes) - padding
        return {
            "waits": [seconds for seconds, _ in answers],
            "seconds": taken,
            "rows_per_second": needed / taken,
            "rows_shared": needed - run,
            "rows_per_call": run / len(sizes),
            "padding": padding / sum(sizes),
        }


def _closed(pipe: DiffEditPipeline, clients: int, requests: Sequence[EditRequest]) -> Answers:
    """Each client waits for its answer before it sends the next edit."""
    with ThreadPoolExecutor(clients) as pool:
        return list(pool.map(lambda one: _edit(pipe, one, time.perf_counter()), requests))


def _poisson(pipe: DiffEditPipeline, rate: float, requests: Sequence[EditRequest]) -> Answers:
    """Edits arrive at `rate` a second on average; each is timed from when it was due."""
    draw, due, sent = random.Random(1), time.perf_counter(), []
    with ThreadPoolExecutor(len(requests)) as pool:
        for request in requests:
            due += draw.expovariate(rate)
            time.sleep(max(0.0, due - time.perf_counter()))
            sent.append(pool.submit(_edit, pipe, request, due))
        return [future.result() for future in sent]
