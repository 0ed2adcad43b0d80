"""Result files side by side: devices in columns, what was measured in rows.

    python -m benchmarks compare A.json B.json ... [--plot OUT.png]

Only runs with the same settings are compared; a file that has others is refused with the
difference named.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.results import ResultError, load


def run(arguments: list[str]) -> dict[str, Any]:
    """Print the table, draw where asked; returns it."""
    args = _parser().parse_args(arguments)
    if len({path.resolve() for path in args.files}) < 2:
        raise ResultError("There is nothing to compare in one file; name two or more.")
    contents = [load(path) for path in args.files]
    names = titles(args.files, contents)
    table = compared(names, contents)
    width = max(len(row) for row in table)
    print(f"{'':{width}}  " + "  ".join(f"{name:>24}" for name in names))
    for row, values in table.items():
        told = "  ".join(f"{values[n]:>24.5g}" if n in values else f"{'-':>24}" for n in names)
        print(f"{row:{width}}  {told}")
    if args.plot:
        from benchmarks.plots import devices

        devices(table, names, args.plot)
    return {"devices": names, "table": table}


def titles(files: Sequence[Path], contents: Sequence[dict[str, Any]]) -> list[str]:
    """Short names of the devices; the file's where two are alike."""
    found = (str(content.get("machine", {}).get("device", "?")) for content in contents)
    devices = [device.split(" (")[0][:24] for device in found]
    return [
        device if devices.count(device) == 1 else path.stem[-24:]
        for path, device in zip(files, devices, strict=True)
    ]


def compared(names: Sequence[str], contents: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Row -> device -> value. Raises ResultError where settings differ or nothing is in common."""
    table: dict[str, dict[str, float]] = {}
    known: dict[str, tuple[str, Any]] = {}
    for name, content in zip(names, contents, strict=True):
        for one in content["runs"]:
            what = (one.get("settings"), (one.get("model") or {}).get("unet_bytes"))
            first, before = known.setdefault(one["benchmark"], (name, what))
            if before != what:
                raise ResultError(
                    f"{one['benchmark']} was measured with {_differing(before, what)} on {first} "
                    f"and {name}; measure both with the same settings."
                )
            for row, value in figures(one):
                table.setdefault(row, {})[name] = value
    shared = {row: values for row, values in table.items() if len(values) > 1}
    if not shared:
        raise ResultError("These files have no benchmark in common; measure the same ones on both.")
    return shared


def figures(one: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """The figures of a run that are worth comparing, by their names."""
    result = one["result"]
    if one["benchmark"] == "latency":
        for which in ("warm", "next"):
            yield f"latency, {which} edit, s (p50)", result[which]["total"]["p50"]
        yield "latency, images a second", 1 / result["warm"]["total"]["p50"]
    elif one["benchmark"] == "throughput":
        for name, line in result["lines"].items():
            yield f"throughput, {name}, edits/s", line["edits_per_second"]
            if "joules_per_edit" in line:
                yield f"throughput, {name}, edits per kJ", 1000 / line["joules_per_edit"]
    elif one["benchmark"] == "ladder":
        for rung in result["rungs"]:
            if "seconds" in rung:
                yield f"ladder, {rung['name']}, s", rung["seconds"]
    elif one["benchmark"] == "roofline":
        yield "roofline, matrix TFLOP/s", result["matrix_tflops"]
        yield "roofline, copy GB/s", result["copy_gb_per_second"]
        for call in result["calls"]:
            yield f"roofline, {call['network']} {call['rows']} rows, ms", call["ms"]


def _differing(first: Any, second: Any) -> str:
    """Which settings differ, with both values."""
    (settings, weights), (others, their_weights) = first, second
    found = [
        f"{key} {settings.get(key)!r} and {others.get(key)!r}"
        for key in sorted({*(settings or {}), *(others or {})})
        if settings.get(key) != others.get(key)
    ]
    if weights != their_weights:
        found.append("models of other sizes")
    return ", ".join(found)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", type=Path, nargs="+", help="result files of `make bench`")
    parser.add_argument("--plot", type=Path, help="draw it into this PNG file")
    return parser
