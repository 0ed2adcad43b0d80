"""What the server costs, and what it does under load, with every figure beside its bound.

    make bench-serving
    python -m benchmarks serving [--model demo/model --real] [--seconds 20] [--soak 600]

A server runs in a process of its own, on fake networks whose calls take `--call-ms`, or with
`--real` on a checkpoint. The load is locust's (`benchmarks/serving_load.py`).
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serving_client import Served, edit, http, photo, post, server, start, state
from engine.errors import DiffEditError

FORM = {
    "prompt": "a red cube and a yellow cone on a checked cloth",
    "source_prompt": "a black cube and a yellow cone on a checked cloth",
}
SHORT = {**FORM, "num_inference_steps": "1", "num_maps_per_mask": "1"}
LONG = {**FORM, "num_inference_steps": "1000", "strength": "1"}
TO_BE = (
    ("front_p50_ms", "everything but the network, 512 px JPEG, p50", "<=", 10.0),
    ("front_p99_ms", "the same, p99", "<=", 30.0),
    ("goodput_share", "edits served at 4 times capacity, of capacity", ">=", 0.95),
    ("refused_p99_ms", "refusals answered, p99", "<=", 50.0),
    ("cancelled", "jobs of 100 that a DELETE ended", ">=", 100.0),
    ("cancel_late_ms", "a cancelled job's place free after one call and", "<=", 25.0),
    ("others_equal", "edits beside a poisoned one equal to the bit", ">=", 1.0),
    ("not_ready_ms", "not ready after SIGTERM", "<=", 100.0),
    ("exit_code", "exit code after draining", "<=", 0.0),
    ("gain", "8 clients against one at a time", ">=", 1.0),
    ("soak_mib_per_minute", "growth of the memory in the soak", "<=", 0.5),
)
"""Figure, words, and the bound it is held against."""


def run(arguments: list[str]) -> dict[str, Any]:
    """Every figure in turn; prints each with its bound and verdict."""
    args = _parser().parse_args(arguments)
    found: dict[str, float] = {}
    real = ["--model", str(args.model)] if args.real else None
    parts: list[tuple[Callable[[Served], dict[str, float]], float, tuple[str, ...]]] = [
        (front, 0.0, ()),
        (cancelling, args.call_ms, ()),
        (poisoned, 1.0, ("--fault", "nan")),
        (lambda served: loaded(served, args), args.call_ms, ()),
        (stopping, args.call_ms, ()),
    ]
    if args.real:
        parts = [(cancelling, 0.0, ()), (lambda s: loaded(s, args), 0.0, ()), (stopping, 0.0, ())]
    if args.soak:
        parts.append((lambda served: soak(served, args.soak), 0.0, ()))
    for part, call_ms, options in parts:
        with server(args.model, call_ms, options, real) as served:
            new = part(served)
            found |= new
            for line in told(new):
                print(line, flush=True)
    settings = {"call_ms": args.call_ms, "seconds": args.seconds, "real": args.real}
    return {"settings": settings, "model": None, "result": found}


def told(found: dict[str, float]) -> Iterator[str]:
    """A line a figure that has a bound, and one for each of the rest."""
    bounds = {name: (words, sign, bound) for name, words, sign, bound in TO_BE}
    for name, value in found.items():
        if name not in bounds:
            yield f"         {name} {value:.4g}"
            continue
        words, sign, bound = bounds[name]
        met = value <= bound if sign == "<=" else value >= bound
        yield f"{'reached' if met else 'MISSED '}  {words}: {value:.4g} ({sign} {bound:g})"


def front(served: Served) -> dict[str, float]:
    """One client, networks that take no time: what is left is decoding, HTTP, batcher, encoding."""
    figures: dict[str, float] = {}
    for form, kind in (("JPEG", "jpeg"), ("PNG", "png")):
        image = photo(512, form)
        waited = []
        for seed in range(220):
            began = time.perf_counter()
            edit(served, image, seed=str(seed), output_format=kind, **SHORT)
            waited.append(1000 * (time.perf_counter() - began))
        p50, p99 = (float(v) for v in np.percentile(waited[20:], (50, 99)))
        prefix = "front" if kind == "jpeg" else "front_png"
        figures |= {f"{prefix}_p50_ms": p50, f"{prefix}_p99_ms": p99}
    return figures


def cancelling(served: Served) -> dict[str, float]:
    """A hundred long jobs, each ended by DELETE; how long until its place is free."""
    image, ended, late = photo(128, "PNG"), 0, []
    for seed in range(100):
        job = start(served, image, seed=str(seed), **LONG)
        while state(served, job)["state"] == "queued":
            time.sleep(0.001)
        began = time.perf_counter()
        answer = http().request("DELETE", f"{served.url}/v1/jobs/{job}").json()
        late.append(1000 * (time.perf_counter() - began - served.call_seconds))
        ended += answer["state"] == "cancelled"
    return {"cancelled": ended, "cancel_late_ms": max(late)}


def poisoned(served: Served) -> dict[str, float]:
    """NaN in one edit's rows; the others of the same calls, against themselves alone."""
    image = photo(128, "PNG")
    form = {**FORM, "num_inference_steps": "10"}
    alone = [edit(served, image, seed=str(k), **form)["data"][0]["b64_json"] for k in range(7)]
    with ThreadPoolExecutor(8) as pool:
        bad = pool.submit(post, served, image, {**form, "prompt": "poison"})
        beside = list(pool.map(lambda k: edit(served, image, seed=str(k), **form), range(7)))
    if bad.result().status_code != 422:
        raise DiffEditError(f"the poisoned edit was answered {bad.result().status_code}.")
    same = [b["data"][0]["b64_json"] == a for a, b in zip(alone, beside, strict=True)]
    return {"others_equal": float(np.mean(same))}


def loaded(served: Served, args: argparse.Namespace) -> dict[str, float]:
    """Closed with one and with eight clients, then open at four times what eight reach."""
    if not args.locust.exists():
        print(f"         no load: {args.locust} is not there; `make bench-serving` makes it")
        return {}
    alone = drive(served, args, users=1, rate=0.0)
    eight = drive(served, args, users=8, rate=0.0)
    open_ = drive(served, args, users=400, rate=4 * eight["served_rate"])
    return {
        "capacity_per_second": eight["served_rate"],
        "gain": eight["served_rate"] / alone["served_rate"],
        "eight_p99_ms": eight["served_p99_ms"],
        "goodput_share": open_["served_rate"] / eight["served_rate"],
        "overload_p99_ms": open_["served_p99_ms"],
        "refused_p99_ms": open_.get("refused_p99_ms", float("nan")),
        "failures": open_["failures"],
    }


def drive(served: Served, args: argparse.Namespace, *, users: int, rate: float) -> dict[str, float]:
    """Locust for some seconds; rate, p99 and failures by what was answered."""
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "photo.jpg"
        image.write_bytes(photo(128, "JPEG"))
        command = [str(args.locust), "-f", "benchmarks/serving_load.py", "--headless"]
        command += ["-u", str(users), "-r", str(users), "-t", f"{args.seconds}s"]
        command += ["--host", served.url, "--csv", f"{folder}/out", "--only-summary"]
        environment = {**os.environ, "RATE": str(rate), "IMAGE": str(image)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        table = Path(folder) / "out_stats.csv"
        if not table.exists():
            raise DiffEditError(f"locust failed: {done.stderr.strip().splitlines()[-1]}")
        rows = {row["Name"]: row for row in csv.DictReader(io.StringIO(table.read_text()))}
    figures = {"failures": float(rows["Aggregated"]["Failure Count"])}
    for name in ("served", "refused"):
        if name in rows:
            figures[f"{name}_rate"] = float(rows[name]["Requests/s"])
            figures[f"{name}_p99_ms"] = float(rows[name]["99%"])
    return figures


def stopping(served: Served) -> dict[str, float]:
    """SIGTERM with an edit under way."""
    image = photo(128, "PNG")
    with ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(post, served, image, {**FORM, "num_inference_steps": "50"})
        time.sleep(0.2)
        served.process.send_signal(signal.SIGTERM)
        began = time.perf_counter()
        while http().get(f"{served.url}/readyz").status_code == 200:
            time.sleep(0.002)
        late = 1000 * (time.perf_counter() - began)
        finished = under_way.result().status_code
    code = served.process.wait(60)
    return {"not_ready_ms": late, "finished_with": finished, "exit_code": float(code)}


def soak(served: Served, seconds: float) -> dict[str, float]:
    """Edits of 64 sizes by four clients; the slope of the memory in the second half, when the
    allocator has seen them all."""
    pictures = [photo(96 + place, "PNG") for place in range(64)]
    began, seen = time.monotonic(), []

    def client(number: int) -> None:
        seed = number
        while time.monotonic() - began < seconds:
            edit(served, pictures[seed % 64], seed=str(seed), **SHORT)
            seed += 4

    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(client, number) for number in range(4)]
        while not all(c.done() for c in clients):
            seen.append(((time.monotonic() - began) / 60, served.memory_mib))
            time.sleep(1)
        for done in clients:
            done.result()
    late = [pair for pair in seen if pair[0] > seconds / 120]
    slope = statistics.linear_regression(*zip(*late, strict=True)).slope
    return {"soak_minutes": seconds / 60, "soak_mib_per_minute": slope, "memory_mib": late[-1][1]}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks serving",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", type=Path, default=Path("demo/model"), help="a checkpoint (demo/model)")
    add("--real", action="store_true", help="run its networks instead of fake ones")
    add("--call-ms", type=float, default=20.0, help="what a fake call takes (20)")
    add("--seconds", type=int, default=20, help="of each load (20)")
    add("--soak", type=float, default=0.0, help="seconds of a soak at the end (none)")
    add("--locust", type=Path, default=Path("build/locust/bin/locust"), help="the load tool")
    return parser
