"""The output of a benchmark: progress on standard error, the table on standard output."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.schema import Measurement, Result

_BEGAN = time.monotonic()
LINE_SECONDS = 30.0
"""How often the remaining time is printed where standard error is not a terminal."""


def progress(text: str) -> None:
    """One line on standard error, with the seconds since the program started."""
    print(f"[{time.monotonic() - _BEGAN:6.0f} s] {text}", file=sys.stderr, flush=True)


@contextmanager
def remaining(text: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar with the remaining time on standard error; where that is a file, a line now and then.

    Yields a function that takes how many of `total` parts are done.
    """
    console = Console(stderr=True)
    columns = (TextColumn(text), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    printed = time.monotonic()

    def show(done: int) -> None:
        nonlocal printed
        bar.update(task, completed=done)
        left = bar.tasks[0].time_remaining
        late = time.monotonic() - printed > LINE_SECONDS or done == total
        if not console.is_terminal and late:
            printed = time.monotonic()
            about = f", about {left / 60:.0f} min left" if left else ""
            progress(f"{text}: {done} of {total}{about}")

    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(text, total=total)
        yield show


def table(result: Result) -> str:
    """A result as lines of text: configuration, a row a measurement, checks, what did not run."""
    return "\n".join(_lines(result))


def row(measurement: Measurement) -> str:
    """One measurement in one line."""
    return "  ".join(cell for cell in _cells(measurement) if cell)


def aligned(
    rows: Sequence[Sequence[str]], *, right: bool = False, between: str = "  "
) -> Iterator[str]:
    """Rows of cells as lines; with `right`, all columns but the first are aligned on the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for cells in rows:
        padded = (
            cell.rjust(width) if right and column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        line = between.join(padded)
        yield line.rstrip() if between.isspace() else line


def _lines(result: Result) -> Iterator[str]:
    for key, value in result.configuration.items():
        yield f"{key}: {value}"
    yield from aligned([_cells(one) for one in result.measurements])
    yield from (str(check) for check in result.checks)
    for part in result.not_run:
        yield f"not run: {part.name}: {part.reason}"


def _cells(one: Measurement) -> tuple[str, str, str, str, str]:
    """Title, value with its unit, spread, repeats, extras."""
    spread = f"[{_number(one.low)}, {_number(one.high)}]" if one.low is not None else ""
    statistic = "" if one.statistic == "median" else f" {one.statistic}"
    extras = "  ".join(f"{key} {_number(value)}" for key, value in _flat(one.extras))
    value = f"{_number(one.value)} {one.unit}".rstrip()
    return one.title, value, spread, f"n={one.repeats}{statistic}", extras


def _flat(extras: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Extras without nesting: {"rows": {"unet": 44}} becomes "rows.unet", 44."""
    for key, value in extras.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}.{inner}", one) for inner, one in _flat(value))
        elif value is not None:
            yield key, value


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str("-" if value is None else value)
