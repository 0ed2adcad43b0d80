"""Every speed benchmark in turn, into one result file: what `make bench` runs.

    python -m benchmarks suite [--model FOLDER] [--into benchmarks/results/DEVICE-DATE.json]

A benchmark that fails is named and the rest goes on; what was measured is kept after each.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import sys
from pathlib import Path
from typing import Any

from benchmarks.machine import device_name, machine, slug
from benchmarks.results import keep
from engine.errors import DiffEditError

ORDER = ("overhead", "roofline", "ladder", "latency", "throughput")
DRAWN = ("roofline", "ladder")
"""Those that draw a plot, which is kept beside the results."""


def run(arguments: list[str]) -> dict[str, Any]:
    """Run all of them; returns what the json line holds."""
    args = _parser().parse_args(arguments)
    today = datetime.date.today().isoformat()
    path = args.into or Path("benchmarks/results") / f"{slug(device_name())}-{today}.json"
    on = machine()
    done, failed = [], {}
    for name in args.only or ORDER:
        print(f"\n== {name}", flush=True)
        module = importlib.import_module(f"benchmarks.{name}")
        options = [] if name == "overhead" else shared(args)
        if args.engines and name == "ladder":
            options += ["--engines", str(args.engines)]
        if name in DRAWN:
            options += ["--plot", str(path.with_name(f"{path.stem}-{name}.png"))]
        try:
            found = module.run(options)
        except (DiffEditError, RuntimeError) as error:
            failed[name] = str(error).split("\n")[0]
            print(f"{name} failed: {failed[name]}", file=sys.stderr)
            continue
        keep(path, {"benchmark": name, **_run(found)}, machine=on, date=today)
        done.append(name)
    if not done:
        raise DiffEditError("No benchmark could run; the lines above say why.")
    print(f"\nkept in {path}")
    return {"file": str(path), "done": done, "failed": failed}


def shared(args: argparse.Namespace) -> list[str]:
    """The options given that every benchmark takes."""
    given = {"--model": args.model, "--size": args.size, "--steps": args.steps}
    return [str(part) for name, value in given.items() if value for part in (name, value)]


def _run(found: dict[str, Any]) -> dict[str, Any]:
    """A benchmark without settings of its own keeps all it found as its result."""
    return found if "result" in found else {"settings": {}, "model": None, "result": found}


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if not set(names) <= set(ORDER):
        raise argparse.ArgumentTypeError(f"{text!r}: take some of {','.join(ORDER)}")
    return names


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks suite",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", type=Path, help="a checkpoint (demo/model)")
    parser.add_argument("--size", help="of the picture (the model's own)")
    parser.add_argument("--steps", type=int, help="N (each benchmark's own)")
    parser.add_argument("--engines", type=Path, help="an engine folder, for the ladder")
    parser.add_argument("--only", type=_names, help=",".join(ORDER))
    parser.add_argument("--into", type=Path, help="the result file")
    return parser
