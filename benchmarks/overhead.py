"""The cost of the batcher and the buffers, without networks: microseconds per call and per row.

Flows on the fake backend yield a number of rows each turn; the time inside the backend is
subtracted. A line through the costs at several numbers of rows gives the cost of a call and of a
row.
"""

from __future__ import annotations

import statistics
import time
from typing import Annotated, Any

import numpy as np
import torch

from benchmarks import options
from benchmarks.machine import machine
from benchmarks.networks import DENOISER
from benchmarks.report import progress
from benchmarks.schema import Check, Measurement, Result, rounded
from engine.backends.fake import CHANNELS, TEXT_WIDTH, TOKENS, FakeBackend, FakeNetworks
from engine.batcher import Batcher
from engine.rows import Flow, Row

LATENT = (CHANNELS, 64, 64)  # of a 512 px picture
SIZES = (1, 2, 4, 8, 16, 20)
BOUND_CALL, BOUND_ROW = 100.0, 10.0

Turns = Annotated[int, options.option(options.WORK, "Calls in one timing.", min=1)]


class _TimedBackend(FakeBackend):
    """A fake denoiser that adds up its own time."""

    seconds = 0.0

    def __call__(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        began = time.thread_time()
        output = batch["latent"]  # the cheapest network possible
        self.seconds += time.thread_time() - began
        return (output,)


def overhead(turns: Turns = 300, repeats: options.Repeats = 7) -> Result:
    """Measure the CPU time that batcher and buffers cost a call and a row, on one thread.

    Example: python -m benchmarks overhead
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    progress(f"calls of {len(SIZES)} sizes, {repeats} times {turns} turns")
    try:
        _cost(4, turns)  # warm up
        costs = {size: [_cost(size, turns) for _ in range(repeats)] for size in SIZES}
    finally:
        torch.set_num_threads(threads)
    rows = [
        Measurement.of("call", samples, "us", {"rows": size}) for size, samples in costs.items()
    ]
    per_row, per_call = _line([statistics.median(samples) for samples in costs.values()])
    lines = [_line(samples) for samples in zip(*costs.values(), strict=True)]
    calls = _fit("a call", per_call, [intercept for _, intercept in lines])
    each = _fit("a row", per_row, [slope for slope, _ in lines])
    checks = (
        Check(f"a call costs {per_call:.1f} us (at most {BOUND_CALL:g})", per_call < BOUND_CALL),
        Check(f"a row costs {per_row:.1f} us (at most {BOUND_ROW:g})", per_row < BOUND_ROW),
    )
    return Result("overhead", machine(), {"turns": turns}, {}, None, (*rows, calls, each), checks)


def _fit(name: str, value: float, every: list[float]) -> Measurement:
    """A coefficient of the line through the medians; spread over the lines of each repeat."""
    low, high = rounded(min(every)), rounded(max(every))
    statistic = "line through the medians"
    return Measurement(name, rounded(value), "us", {}, low, high, len(every), statistic)


def _line(microseconds: Any) -> tuple[float, float]:
    """Slope and intercept over the numbers of rows."""
    slope, intercept = np.polyfit(SIZES, microseconds, 1)
    return float(slope), float(intercept)


def _turns(rows: list[Row], turns: int) -> Flow[None]:
    """The same rows, turn after turn."""
    for _ in range(turns):
        yield rows


def _cost(size: int, turns: int) -> float:
    """Microseconds of the thread's CPU time for a call with `size` rows, without the backend.

    CPU time hardly depends on other programs, unlike wall time.
    """
    networks = FakeNetworks(denoiser_batch_sizes=SIZES)
    backend = networks.backends[DENOISER, LATENT] = _TimedBackend(
        networks.find(DENOISER, LATENT).spec
    )
    row = Row(DENOISER, (torch.zeros(LATENT), torch.tensor(1.0), torch.zeros(TOKENS, TEXT_WIDTH)))
    batcher = Batcher(networks)
    handle = batcher.submit(_turns([row] * size, turns))
    began = time.thread_time()
    while batcher.step():
        pass
    seconds = time.thread_time() - began - backend.seconds
    handle.future.result()  # raises what ended the flow, also Ctrl-C
    return 1e6 * seconds / turns
