"""The cost of the server, and its behavior under load, faults and signals, each with a bound.

A server runs in a separate process, on fake networks whose calls take `--call-ms`, or with `--real`
on a checkpoint. Clients are threads of this process and use the same processors.
"""

from __future__ import annotations

import functools
import itertools
import random
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from benchmarks import options
from benchmarks.machine import machine
from benchmarks.report import progress, row
from benchmarks.schema import Check, Measurement, Result
from benchmarks.serving_client import Server, photo, start_server
from benchmarks.serving_cost import BOUNDS as COST_BOUNDS
from benchmarks.serving_cost import FEW_RESULTS, FORM, request_cost, soaked
from benchmarks.serving_keys import BOUNDS as KEY_BOUNDS
from benchmarks.serving_keys import keyed
from benchmarks.workload import model_facts
from engine.errors import DiffEditError

LONG = {**FORM, "num_inference_steps": "1000", "strength": "1"}
CANCELLED, SLOT = "jobs of 100 ended by DELETE", "slot of a cancelled job free, after its call"
EQUAL = "edits next to a failing one, equal to the bit"
GAIN, GOODPUT = "8 clients, of one client's rate", "served at 4 times capacity, of capacity"
REFUSED, NOT_READY, EXIT = "refusal", "not ready after SIGTERM", "exit code after SIGTERM"
JOBS, CROWD = 100, 400
BOUNDS: dict[str, tuple[str, float]] = {
    GOODPUT: (">=", 0.95),
    REFUSED: ("<=", 50.0),
    CANCELLED: (">=", 100.0),
    SLOT: ("<=", 25.0),
    EQUAL: (">=", 1.0),
    NOT_READY: ("<=", 100.0),
    EXIT: ("<=", 0.0),
    GAIN: (">=", 1.0),
    **COST_BOUNDS,
    **KEY_BOUNDS,
}
"""The bound of a measurement, by its title."""

Real = Annotated[bool, options.option(options.WORK, "Run the model, not fake networks.", "--real")]
CallMs = Annotated[float, options.option(options.WORK, "Duration of a fake call.")]
Seconds = Annotated[int, options.option(options.WORK, "Duration of each load.", min=1)]
Threshold = Annotated[
    float | None, options.option(options.WORK, "Mask threshold; 0.3 for random weights.")
]
Soak = Annotated[float, options.option(options.WORK, "Seconds of a soak at the end; 0 for none.")]


def serving(
    model: options.Model = options.DEMO,
    real: Real = False,
    call_ms: CallMs = 20.0,
    seconds: Seconds = 20,
    repeats: options.Repeats = 3,
    soak: Soak = 0.0,
    threshold: Threshold = None,
) -> Result:
    """Measure the server: a request, load, cancelling, a failing edit, SIGTERM, keys, memory.

    Example: python -m benchmarks serving --soak 600
    """
    rows: list[Measurement] = []
    form = {} if threshold is None else {"mask_threshold": str(threshold)}
    for part, ms, *faults in _parts(real, call_ms, seconds, repeats):
        with start_server(model, None if real else ms, faults, form=form) as server:
            for found in part(server):
                rows.append(found)
                progress(row(found))
    for found in _with_settings(model, real, call_ms, soak, form):
        rows.append(found)
        progress(row(found))
    final = list(merged(rows))
    settings = {"call_ms": call_ms, "seconds": seconds, "real": real, **form}
    return Result(
        "serving",
        machine(),
        settings,
        {},
        model_facts(model) if real else None,
        tuple(final),
        tuple(found for one in final for found in check(one)),
    )


def _parts(real: bool, call_ms: float, seconds: float, repeats: int) -> Iterator[tuple[Any, ...]]:
    """Each part, the duration of its server's fake calls, and the faults of its server."""
    if not real:
        yield request_cost, 0.0
    yield functools.partial(cancelling, call_ms=0.0 if real else call_ms), call_ms
    if not real:
        yield failing, 1.0, "--fault", "nan"
    yield functools.partial(loaded, seconds=seconds, repeats=repeats), call_ms
    yield from [(stopping, call_ms)] * repeats


def _with_settings(
    model: Path, real: bool, call_ms: float, soak: float, form: Mapping[str, str]
) -> Iterator[Measurement]:
    """The parts whose servers have settings of their own."""
    if soak:
        call = None if real else 0.0
        with start_server(model, call, settings=FEW_RESULTS, form=form) as server:
            yield from soaked(server, soak)
    if not real:
        yield from keyed(model, call_ms)


def merged(rows: Sequence[Measurement]) -> Iterator[Measurement]:
    """The rows of parts that ran several times, each as one row with median and spread."""
    groups: dict[str, list[Measurement]] = {}
    for one in rows:
        groups.setdefault(one.title, []).append(one)
    for first, *others in groups.values():
        values = [one.value or 0.0 for one in (first, *others)]
        median = Measurement.of(first.name, values, first.unit, first.labels)
        if not others:
            yield first
        elif first.statistic == "maximum":
            yield replace(median, value=median.high, statistic="maximum")
        else:
            yield median


def check(one: Measurement) -> Iterator[Check]:
    """The bound of a measurement, if it has one."""
    if one.title in BOUNDS and one.value is not None:
        sign, bound = BOUNDS[one.title]
        met = one.value <= bound if sign == "<=" else one.value >= bound
        yield Check(f"{one.title}: {one.value:.4g} {one.unit} ({sign} {bound:g})", met)


def cancelling(server: Server, call_ms: float) -> Iterator[Measurement]:
    """A hundred long jobs, each ended by DELETE, and the time until its slot is free."""
    image, ended, late = photo(128, "png"), 0, []
    for seed in range(JOBS):
        job = server.post(image, {**LONG, "seed": str(seed)}, "jobs").json()["id"]
        while server.http.get(f"/v1/jobs/{job}").json()["state"] == "queued":
            time.sleep(0.001)
        began = time.perf_counter()
        answer = server.http.delete(f"/v1/jobs/{job}").json()
        late.append(1000 * (time.perf_counter() - began) - call_ms)
        ended += answer["state"] == "cancelled"
    yield Measurement(CANCELLED, ended, repeats=JOBS, statistic="count")
    slot = Measurement.of(SLOT, late, "ms")
    yield replace(slot, value=slot.high, statistic="maximum")


def failing(server: Server) -> Iterator[Measurement]:
    """NaN in the rows of one edit; the others in its calls, compared with the same edits alone."""
    image = photo(128, "png")
    form = {**FORM, "num_inference_steps": "10"}

    def picture(seed: int) -> str:
        return str(server.edit(image, {**form, "seed": str(seed)})["data"][0]["b64_json"])

    alone = [picture(seed) for seed in range(7)]
    with ThreadPoolExecutor(8) as pool:
        bad = pool.submit(server.post, image, {**form, "prompt": "poison"})
        together = list(pool.map(picture, range(7)))
    if bad.result().status_code != 422:
        raise DiffEditError(f"The failing edit was answered {bad.result().status_code}, not 422.")
    same = [a == b for a, b in zip(alone, together, strict=True)]
    yield Measurement(EQUAL, float(np.mean(same)), repeats=len(same), statistic="share")


def loaded(server: Server, seconds: float, repeats: int) -> Iterator[Measurement]:
    """Closed with one client and with eight, then open at four times the rate of eight."""
    server.edit(photo(128, "jpeg"), FORM)
    for _ in range(repeats):
        alone = _drive(server, seconds, 1)
        eight = _drive(server, seconds, 8)
        capacity = eight["served_rate"]
        over = _drive(server, seconds, CROWD, 4 * capacity)
        yield Measurement("capacity, 8 clients", capacity, "edits/s")
        yield Measurement(GAIN, capacity / alone["served_rate"])
        yield Measurement("edit with 8 clients, p99", eight["served_p99_ms"], "ms")
        yield Measurement(GOODPUT, over["served_rate"] / capacity)
        yield Measurement("edit at 4 times capacity, p99", over["served_p99_ms"], "ms")
        yield Measurement("failed requests at 4 times capacity", over["failures"])
        if "refused_p99_ms" in over:
            yield Measurement(REFUSED, over["refused_p99_ms"], "ms", statistic="p99")


def _drive(server: Server, seconds: float, clients: int, rate: float = 0.0) -> dict[str, float]:
    """Edits for some seconds: each client one after another, or `rate` a second by all.

    With a rate, edits arrive by a Poisson process; one more than `clients` at once waits.

    Returns: rate and p99 of served and of refused edits, and the number of failures.
    """
    image, seeds, draw = photo(128, "jpeg"), itertools.count(), random.Random(0)
    waited: dict[int, list[float]] = {}
    began = due = time.monotonic()

    def send() -> None:
        sent = time.perf_counter()
        form = {**FORM, "num_inference_steps": "10", "output_format": "jpeg"}
        status = server.post(image, {**form, "seed": str(next(seeds))}).status_code
        waited.setdefault(status, []).append(1000 * (time.perf_counter() - sent))

    def client() -> None:
        while time.monotonic() - began < seconds:
            send()

    with ThreadPoolExecutor(clients) as pool:
        running = [] if rate else [pool.submit(client) for _ in range(clients)]
        while rate and (due := due + draw.expovariate(rate)) < began + seconds:
            time.sleep(max(0.0, due - time.monotonic()))
            running.append(pool.submit(send))
        for one in running:
            one.result()
    taken = time.monotonic() - began
    answered = sum(map(len, waited.values()))
    figures = {"failures": float(answered - sum(len(waited.get(s, ())) for s in (200, 429)))}
    for name, status in (("served", 200), ("refused", 429)):
        if status in waited:
            figures[f"{name}_rate"] = len(waited[status]) / taken
            figures[f"{name}_p99_ms"] = float(np.percentile(waited[status], 99))
    return figures


def stopping(server: Server) -> Iterator[Measurement]:
    """SIGTERM during an edit."""
    with ThreadPoolExecutor(1) as pool:
        form = {**FORM, "num_inference_steps": "50"}
        under_way = pool.submit(server.post, photo(128, "png"), form)
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        began = time.perf_counter()
        while server.http.get("/readyz").status_code == 200:
            time.sleep(0.002)
        late = 1000 * (time.perf_counter() - began)
        status = under_way.result().status_code
    code = float(server.process.wait(60))
    yield Measurement(NOT_READY, late, "ms")
    yield Measurement("HTTP status of an edit during SIGTERM", status)
    yield Measurement(EXIT, code, statistic="maximum")
