"""All speed benchmarks in turn, into one result file: what `make bench` runs.

A benchmark that fails is named and the others continue; the file is written after each.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from benchmarks import options, schema
from benchmarks.ladder import ladder
from benchmarks.latency import latency
from benchmarks.machine import device_name, slug
from benchmarks.overhead import overhead
from benchmarks.report import progress, table
from benchmarks.roofline import roofline
from benchmarks.schema import Result
from benchmarks.throughput import throughput
from engine.errors import DiffEditError

ORDER: dict[str, Callable[..., Result]] = {
    "overhead": overhead,
    "roofline": roofline,
    "ladder": ladder,
    "latency": latency,
    "throughput": throughput,
}
PLOTTED = ("roofline", "ladder")

Only = Annotated[
    Any,
    options.option(
        options.WORK,
        f"Benchmarks to run, of {','.join(ORDER)}.",
        parser=options.one_of(*ORDER),
        metavar="LIST",
    ),
]
SuiteSteps = Annotated[
    int | None, options.option(options.WORK, "N. [default: each benchmark's own]", "--steps")
]
Into = Annotated[
    Path | None,
    options.option(
        options.OUTPUT, "The result file. [default: benchmarks/results/DEVICE-DATE.json]"
    ),
]


def suite(
    model: options.Model = options.DEMO,
    size: options.Size = None,
    steps: SuiteSteps = None,
    only: Only = tuple(ORDER),
    engines: options.Engines = None,
    into: Into = None,
) -> list[Result]:
    """Run all speed benchmarks into one result file, with plots of ladder and roofline.

    Example: python -m benchmarks suite --model sd15 --size 512 --only roofline,ladder
    """
    today = datetime.date.today().isoformat()
    path = into or Path("benchmarks/results") / f"{slug(device_name())}-{today}.json"
    done: list[Result] = []
    for name in only:
        progress(f"suite: {name}")
        chosen = _options(name, model, size, steps, engines, path)
        try:
            result = ORDER[name](**chosen)
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


def _options(
    name: str, model: Path, size: Any, steps: int | None, engines: Path | None, path: Path
) -> dict[str, Any]:
    """The options of the suite that one benchmark takes."""
    if name == "overhead":
        return {}
    chosen: dict[str, Any] = {"model": model, "size": size}
    if steps is not None and name != "roofline":
        chosen["steps"] = steps
    if name == "ladder":
        chosen["engines"] = engines
    if name in PLOTTED:
        chosen["plot"] = path.with_name(f"{path.stem}-{name}.png")
    return chosen
