"""The output of a benchmark: progress on standard error, the table on standard output."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.schema import Measurement, Result

_BEGAN = time.monotonic()


def progress(text: str) -> None:
    """One line on standard error, with the seconds since the program started."""
    print(f"[{time.monotonic() - _BEGAN:6.0f} s] {text}", file=sys.stderr, flush=True)


def table(result: Result) -> str:
    """A result as lines of text: configuration, a row a measurement, checks, what did not run."""
    return "\n".join(_lines(result))


def row(measurement: Measurement) -> str:
    """One measurement in one line."""
    return "  ".join(cell for cell in _cells(measurement) if cell)


def aligned(rows: Sequence[Sequence[str]], *, right: bool = False) -> Iterator[str]:
    """Rows of cells as lines; with `right`, all columns but the first are aligned on the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for cells in rows:
        padded = (
            cell.rjust(width) if right and column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        yield "  ".join(padded).rstrip()


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
