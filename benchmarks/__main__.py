"""`python -m benchmarks NAME [--json FILE]`: run one, print its table and one json line."""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import sys
from pathlib import Path

import benchmarks
from benchmarks.machine import machine
from engine.spec import DiffEditError


def names() -> list[str]:
    """Every benchmark: the modules of this package that have a `run`."""
    found = [m.name for m in pkgutil.iter_modules(benchmarks.__path__)]
    return sorted(n for n in found if n not in ("__main__", "machine"))


def main() -> None:
    """Parse, run, print, and write the json where asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=names())
    parser.add_argument("--json", type=Path, help="write the result here as well")
    args, rest = parser.parse_known_args()
    module = importlib.import_module(f"benchmarks.{args.name}")
    try:
        measured = module.run(rest)
    except DiffEditError as error:
        sys.exit(str(error))
    result = {"benchmark": args.name, **measured, "machine": machine()}
    line = json.dumps(result)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(line + "\n")
    print(line)


if __name__ == "__main__":
    main()
