"""All speed benchmarks in turn, into one result file: what `make bench` runs.

A benchmark that fails is named and the others continue; the file is written after each.
"""

from __future__ import annotations

import datetime
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from benchmarks import options, schema
from benchmarks.ladder import ladder
from benchmarks.latency import latency
from benchmarks.machine import device_name, machine, slug
from benchmarks.overhead import overhead
from benchmarks.report import progress, table
from benchmarks.roofline import roofline
from benchmarks.schema import Result
from benchmarks.throughput import throughput
from benchmarks.workload import Workload
from engine.errors import DiffEditError

ORDER: dict[str, Callable[..., Result]] = {
    "overhead": overhead,
    "roofline": roofline,
    "ladder": ladder,
    "latency": latency,
    "throughput": throughput,
}
Only = Annotated[Any, options.choices(options.WORK, "Benchmarks to run", ORDER)]
Into = Annotated[
    Path | None,
    options.option(
        options.OUTPUT,
        "The result file. [default: benchmarks/results/DEVICE-DATE.json, of a clean commit only]",
    ),
]


def suite(
    load: Workload,
    only: Only = tuple(ORDER),
    engines: options.Engines = None,
    into: Into = None,
) -> list[Result]:
    """Run all speed benchmarks into one result file, with plots of ladder and roofline.

    Example: python -m benchmarks suite --model sd15 --size 512 --only roofline,ladder
    """
    today = datetime.date.today().isoformat()
    path = into or Path("benchmarks/results") / f"{slug(device_name())}-{today}.json"
    schema.check_publishable(path, machine())
    done: list[Result] = []
    for name in only:
        progress(f"suite: {name}")
        plot = path.with_name(f"{path.stem}-{name}.png")
        shared: dict[str, Any] = {"load": load, "plot": plot}
        shared |= {"model": load.model, "size": load.size}
        shared |= {"engines": engines} if name == "ladder" else {}
        taken = inspect.signature(ORDER[name]).parameters
        try:
            result = ORDER[name](**{key: shared[key] for key in shared.keys() & taken.keys()})
        except (DiffEditError, RuntimeError) as error:
            progress(f"{name} failed: {str(error).splitlines()[0]}")
            continue
        schema.add(path, result)
        print(f"\n{name}\n{table(result)}", flush=True)
        done.append(result)
    if not done:
        raise DiffEditError("No benchmark could run; the lines above give the reasons.")
    progress(f"suite: results are in {path}")
    return done
