"""The cost of a request without its networks, and the server's memory over time."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from benchmarks.schema import Measurement, rounded
from benchmarks.serving_client import Server, photo

FORM = {
    "prompt": "a red cube and a yellow cone on a checked cloth",
    "source_prompt": "a black cube and a yellow cone on a checked cloth",
    "preset": "paper",
}
SHORT = {**FORM, "num_inference_steps": "1", "num_maps_per_mask": "1"}
REQUEST = "request, networks take no time"
PROCESSOR = "request, processor time of the server"
GROWTH = "growth of the memory in the soak"
KINDS = (("jpeg", "paper"), ("jpeg", "balanced"), ("png", "paper"))
"""Format of the picture and of the result, and the preset: balanced cleans the mask."""
FEW_RESULTS = {"RESULT_BYTES": "16000000"}
"""Settings for the soak: the results that a server keeps reach their limit within seconds."""
REQUESTS, WARM_UPS = 200, 20
BOUNDS: dict[str, tuple[str, float]] = {
    **{
        f"{REQUEST} (format jpeg, preset {preset}, percentile {percentile})": ("<=", bound)
        for preset in ("paper", "balanced")
        for percentile, bound in ((50, 10.0), (99, 30.0))
    },
    GROWTH: ("<=", 0.5),
}


def request_cost(server: Server) -> Iterator[Measurement]:
    """One client; what remains is decoding, HTTP, batcher and encoding.

    The processor time is that of the server's process alone. It depends less on what else runs.
    """
    for form, preset in KINDS:
        image, fields = photo(512, form), {**SHORT, "preset": preset, "output_format": form}
        waited, worked = [], []
        for seed in range(REQUESTS + WARM_UPS):
            began, before = time.perf_counter(), server.processor_seconds
            server.edit(image, {**fields, "seed": str(seed)})
            waited.append(1000 * (time.perf_counter() - began))
            worked.append(1000 * (server.processor_seconds - before))
        labels = {"format": form, "preset": preset}
        waited, worked = waited[WARM_UPS:], worked[WARM_UPS:]
        yield Measurement.of(PROCESSOR, worked, "ms", labels)
        median = Measurement.of(REQUEST, waited, "ms", {**labels, "percentile": 50})
        yield median
        p99 = rounded(float(np.percentile(waited, 99)))
        yield replace(median, value=p99, statistic="p99", labels={**labels, "percentile": 99})


def soaked(server: Server, seconds: float) -> Iterator[Measurement]:
    """Edits of 64 sizes by four clients; the slope of the memory in the second half, when the
    allocator has seen every size."""
    pictures = [photo(96 + extra, "png") for extra in range(64)]
    began, samples = time.monotonic(), []

    def client(number: int) -> None:
        for seed in itertools.count(number, 4):
            if time.monotonic() - began > seconds:
                return
            server.edit(pictures[seed % 64], {**SHORT, "seed": str(seed)})

    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(client, number) for number in range(4)]
        while not all(one.done() for one in clients):
            samples.append(((time.monotonic() - began) / 60, server.memory_mib))
            time.sleep(min(1.0, seconds / 10))
        for one in clients:
            one.result()
    late = [sample for sample in samples if sample[0] > seconds / 120]
    slope = statistics.linear_regression(*zip(*late, strict=True)).slope
    minutes = {"minutes": seconds / 60}
    yield Measurement(GROWTH, slope, "MiB/min", repeats=1, statistic="slope", extras=minutes)
    yield Measurement("memory after the soak", late[-1][1], "MiB")
