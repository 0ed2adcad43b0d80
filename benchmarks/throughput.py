"""Many clients at once: edits a second and how long each waited, against one at a time.

    python -m benchmarks throughput [--model FOLDER] [--clients 1,2,4,8,16] [--edits 32]

Closed: each client sends its next edit when the last came back (MLPerf's Offline for one client per
slot). Open: edits arrive by a Poisson process at `--load` times the rate that one at a time reaches
(MLPerf's Server). Unofficial. The edits differ in prompt, steps, strength and seed.
"""

from __future__ import annotations

import argparse
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from benchmarks.counting import CountingNetworks
from benchmarks.latency import add_backend
from benchmarks.power import Meter
from benchmarks.subject import Subject, add_arguments, whole_numbers
from diffedit import DiffEditPipeline, EditRequest
from diffedit.backend_selection import open_backend
from engine.checkpoint import Checkpoint

COLOURS = ("blue", "green", "yellow", "white", "black", "orange")


def run(arguments: list[str]) -> dict[str, Any]:
    """One at a time, then every number of clients, then Poisson arrivals; prints a table."""
    args = _parser().parse_args(arguments)
    subject = Subject.of(args)
    networks, why = open_backend(
        Checkpoint.open(subject.model),
        backend=args.backend,
        engines=args.engines,
        device=args.device,
        dtype=args.dtype,
        compile=args.compile,
    )
    counting = CountingNetworks(networks)
    pipe = DiffEditPipeline(Checkpoint.open(subject.model), counting, size=subject.size, reason=why)
    requests = mixed(subject, args.edits)
    lines: dict[str, dict[str, float]] = {}
    with pipe:
        pipe.submit(requests[0]).result()  # warm up
        print(f"{pipe.describe()}\n{args.edits} edits of mixed prompts, steps and strengths")
        lines["one at a time"] = measured(pipe, counting, requests, closed(pipe, 1))
        alone = lines["one at a time"]["edits_per_second"]
        for clients in args.clients:
            lines[f"{clients} clients"] = measured(pipe, counting, requests, closed(pipe, clients))
        rate = args.load * alone
        lines[f"Poisson, {args.load:g} times that rate"] = measured(
            pipe, counting, requests, poisson(pipe, rate)
        )
        backend = pipe.describe()
    for name, line in lines.items():
        line["gain"] = round(line["edits_per_second"] / alone, 3)
        print(
            f"{name:28} {line['edits_per_second']:7.3f} edits/s ({line['gain']:.2f} x)  "
            f"p50 {line['p50']:.2f} s  p95 {line['p95']:.2f}  p99 {line['p99']:.2f}  "
            f"{line['rows_per_call']:.1f} rows a call, {100 * line['padding']:.0f} % padding"
            + (f", {line['joules_per_edit']:.0f} J an edit" if "joules_per_edit" in line else "")
        )
    settings = {**subject.settings(), "edits": args.edits, "load": args.load}
    result = {"backend": backend, "lines": lines}
    return {"settings": settings, "model": subject.model_facts(), "result": result}


def mixed(subject: Subject, count: int) -> list[EditRequest]:
    """Edits that differ in prompt, steps, strength and seed, the same ones every time."""
    draw = random.Random(0)
    found = []
    for seed in range(count):
        prompt = f"a {draw.choice(COLOURS)} ball and a green cube on a wooden table"
        steps = max(2, round(subject.steps * draw.choice((0.6, 0.8, 1.0))))
        strength = draw.choice((0.5, 0.65, 0.8))
        found.append(
            subject.request(seed=seed, prompt=prompt, num_inference_steps=steps, strength=strength)
        )
    return found


def measured(
    pipe: DiffEditPipeline,
    counting: CountingNetworks,
    requests: Sequence[EditRequest],
    drive: Callable[[Sequence[EditRequest]], tuple[list[float], dict[str, int]]],
) -> dict[str, float]:
    """Drive all requests on a pipeline that remembers nothing, and count."""
    pipe.cache_clear()
    counting.clear()
    before = pipe.batcher.padded_rows("unet")
    began = time.perf_counter()
    with Meter() as meter:
        waited, rows = drive(requests)
        taken = time.perf_counter() - began
    calls, padding = counting.calls["unet"], pipe.batcher.padded_rows("unet") - before
    run = calls.slots - padding  # fewer than were asked for where edits of one picture share rows
    p50, p95, p99 = (float(v) for v in np.percentile(waited, (50, 95, 99)))
    found = {
        "edits_per_second": round(len(requests) / taken, 4),
        "p50": round(p50, 4),
        "p95": round(p95, 4),
        "p99": round(p99, 4),
        "rows_per_second": round(rows["unet"] / taken, 2),
        "rows_shared": rows["unet"] - run,
        "rows_per_call": round(run / len(calls.sizes), 3),
        "padding": round(padding / calls.slots, 4),
    }
    if meter.joules is not None:
        found["joules_per_edit"] = round(meter.joules / len(requests), 3)
    return found


Driver = Callable[[Sequence[EditRequest]], tuple[list[float], dict[str, int]]]


def closed(pipe: DiffEditPipeline, clients: int) -> Driver:
    """Every client waits for its answer before it asks again."""

    def drive(requests: Sequence[EditRequest]) -> tuple[list[float], dict[str, int]]:
        totals, lock = Totals(), threading.Lock()

        def one(request: EditRequest) -> None:
            began = time.perf_counter()
            result = pipe.submit(request).result()
            with lock:
                totals.add(time.perf_counter() - began, result.stats.rows)

        with ThreadPoolExecutor(clients) as pool:
            list(pool.map(one, requests))
        return totals.waited, totals.rows

    return drive


def poisson(pipe: DiffEditPipeline, rate: float) -> Driver:
    """Requests come at `rate` a second on average, whatever is still under way."""

    def drive(requests: Sequence[EditRequest]) -> tuple[list[float], dict[str, int]]:
        draw, totals, lock = random.Random(1), Totals(), threading.Lock()
        due = time.perf_counter()
        with ThreadPoolExecutor(len(requests)) as pool:
            futures = []
            for request in requests:
                due += draw.expovariate(rate)
                time.sleep(max(0.0, due - time.perf_counter()))
                futures.append(pool.submit(_timed, pipe, request, due, totals, lock))
            for future in futures:
                future.result()
        return totals.waited, totals.rows

    return drive


def _timed(
    pipe: DiffEditPipeline, request: EditRequest, due: float, totals: Totals, lock: threading.Lock
) -> None:
    """From when the request was due, not from when it could be sent."""
    result = pipe.submit(request).result()
    with lock:
        totals.add(time.perf_counter() - due, result.stats.rows)


class Totals:
    """What finished edits add up to."""

    def __init__(self) -> None:
        self.waited: list[float] = []
        self.rows: dict[str, int] = {}

    def add(self, seconds: float, rows: dict[str, int]) -> None:
        self.waited.append(seconds)
        for name, count in rows.items():
            self.rows[name] = self.rows.get(name, 0) + count


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks throughput",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    add_backend(parser)
    parser.add_argument(
        "--clients", type=whole_numbers, default=(1, 2, 4, 8, 16), help="1,2,4,8,16"
    )
    parser.add_argument("--edits", type=int, default=32, help="edits a line of the table (32)")
    parser.add_argument("--load", type=float, default=1.2, help="of the Poisson arrivals (1.2)")
    return parser
