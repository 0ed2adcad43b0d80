"""Compare result files: one column per file, one row per measurement.

Rows with the same name and labels are compared, if the benchmark ran with the same settings on a
model of the same size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.report import aligned
from benchmarks.schema import Result, ResultError, load

Files = Annotated[list[Path], typer.Argument(metavar="FILES", help="Two or more result files.")]
Table = dict[str, dict[str, float]]


def compare(files: Files) -> None:
    """Compare result files of several machines, configurations or versions.

    Example: python -m benchmarks compare benchmarks/results/a.json b.json
    """
    names, rows = compared(files)
    lines = [
        [title, *(f"{values[name]:.5g}" if name in values else "-" for name in names)]
        for title, values in rows.items()
    ]
    print("\n".join(aligned([["", *names], *lines], right=True)))


def compared(files: Sequence[Path]) -> tuple[list[str], Table]:
    """Column names, and row title -> column -> value. Raises ResultError if settings differ or the
    files have no measurement in common."""
    if len({path.resolve() for path in files}) < 2:
        raise ResultError("There is nothing to compare in one file; pass two or more.")
    contents = [load(path) for path in files]
    names = _columns(files, contents)
    table: Table = {}
    first: dict[str, tuple[str, Result]] = {}
    for name, results in zip(names, contents, strict=True):
        for result in results:
            known, other = first.setdefault(result.benchmark, (name, result))
            if differing := _differences(other, result):
                raise ResultError(
                    f"{result.benchmark} was measured with {differing} in {known} and {name}; "
                    "measure both with the same settings."
                )
            for row in result.measurements:
                if row.value is not None:
                    unit = f", {row.unit}" if row.unit else ""
                    title = f"{result.benchmark}: {row.title}{unit}"
                    table.setdefault(title, {})[name] = row.value
    shared = {title: values for title, values in table.items() if len(values) > 1}
    if not shared:
        raise ResultError("The files have no measurement in common; run the same benchmarks.")
    return names, shared


def _columns(files: Sequence[Path], contents: Sequence[list[Result]]) -> list[str]:
    """The device of each file, or its name if two devices are equal."""
    devices = [
        results[0].machine.device.split(" (")[0][:24] if results else path.stem
        for path, results in zip(files, contents, strict=True)
    ]
    count = Counter(devices)
    return [
        device if count[device] == 1 else path.stem
        for path, device in zip(files, devices, strict=True)
    ]


def _differences(first: Result, second: Result) -> str:
    """The settings that differ, with both values; empty if none does."""

    def facts(result: Result) -> dict[str, Any]:
        model = first.model and second.model and result.model
        return {**result.settings, "denoiser bytes": model.denoiser_bytes if model else None}

    a, b = facts(first), facts(second)
    return ", ".join(
        f"{key} {a.get(key)!r} and {b.get(key)!r}"
        for key in dict.fromkeys((*a, *b))
        if a.get(key) != b.get(key)
    )
