"""The command line: one typer app with one command per benchmark.

A benchmark is a function with annotated options that returns a `Result`. The app adds `--json`,
prints the table and one json line, and turns errors into one sentence.
"""

from __future__ import annotations

import functools
import inspect
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import typer

from benchmarks import options, schema
from benchmarks.batch import batch
from benchmarks.compare import compare
from benchmarks.draw import draw
from benchmarks.families import families
from benchmarks.gpu_check import gpu_check
from benchmarks.kernels import kernels
from benchmarks.ladder import ladder
from benchmarks.latency import latency
from benchmarks.machine import source
from benchmarks.overhead import overhead
from benchmarks.profile import profile
from benchmarks.quality import quality
from benchmarks.report import table
from benchmarks.roofline import roofline
from benchmarks.serving import serving
from benchmarks.throughput import throughput
from engine.errors import DiffEditError
from engine.option_groups import expand_groups

SPEED = (
    latency,
    ladder,
    throughput,
    roofline,
    kernels,
    families,
    profile,
    overhead,
    serving,
    batch,
    gpu_check,
)
BENCHMARKS: tuple[Callable[..., Any], ...] = (quality, *SPEED)

app = typer.Typer(
    name="python -m benchmarks",
    help="""Measure quality and speed. Nothing else should run on the machine during a timing.

Each benchmark prints its progress, a table (median, [minimum, maximum], n = repeats) and one line
of json. Examples:

- `python -m benchmarks overhead`: half a minute, without a model
- `python -m benchmarks latency --steps 10`: with the model in demo/model
- `python -m benchmarks ladder --model sd15 --size 512 --steps 10`: with any checkpoint
- `python -m benchmarks roofline --json a.json`: keep the result in a file
- `python -m benchmarks compare a.json b.json`: compare two results""",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def before_measuring(path: Path | None) -> None:
    """Record the commit. Raise ResultError now if the result could not be published later."""
    commit, dirty = source()
    if path is not None:
        schema.check_publishable(path, schema.Machine("", commit=commit, dirty=dirty))


def _reported(benchmark: Callable[..., Any]) -> Callable[..., None]:
    """Wrap a benchmark as a command that prints its result and has `--json`."""
    expanded = expand_groups(benchmark)

    @functools.wraps(expanded)
    def command(*, json: Path | None, **chosen: Any) -> None:
        before_measuring(json)
        found = expanded(**chosen)
        results = found if isinstance(found, list) else [found]
        if benchmark not in (quality, gpu_check):  # they print each part when it is finished
            print(table(results[0]))
        if json is not None:
            schema.save(json, results)
        print(schema.dumps(results))

    signature = inspect.signature(expanded)
    added = inspect.Parameter(
        "json", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=options.Json
    )
    parameters = [*signature.parameters.values(), added]
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    return command


for _benchmark in BENCHMARKS:
    app.command()(_reported(_benchmark))
app.command()(compare)
app.command()(draw)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line and exit: 0, 1 with a sentence, 2 for wrong usage, 130 on Ctrl-C."""
    if arguments is None:  # running as a program: SIGTERM also ends the processes that it started
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        app(args=arguments, prog_name="python -m benchmarks")
    except SystemExit as end:
        if end.code == 130:
            print("stopped; the finished parts are kept in their files", file=sys.stderr)
        raise
    except (DiffEditError, OSError) as error:
        sys.exit(str(error))
