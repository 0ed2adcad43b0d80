"""`python -m benchmarks NAME [--json FILE]`: run one, print its table and one json line."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path

from benchmarks.machine import machine
from engine.errors import DiffEditError

NAMES = {
    "attention": "our attention kernel for CPUs against PyTorch's ways",
    "compare": "result files of several devices side by side",
    "convolution": "our convolution kernel for CPUs against PyTorch's",
    "ladder": "the same edit, one optimisation a rung, from diffusers' pipeline up",
    "latency": "one edit at a time: cold, warm, and the next one of the same picture",
    "overhead": "what batcher and buffers cost beside the networks",
    "profile": "where the time of one UNet call goes, by kind of operation",
    "quality": "how good masks and edits are, against the truth",
    "roofline": "how far each network is from what the device can do",
    "row": "seconds for one call of the UNet",
    "serving": "what the server costs, and what it does under load",
    "suite": "all that measures speed, into one result file",
    "throughput": "many clients at once against one at a time",
}
"""Every benchmark: a module of this package with a `run`."""


def main() -> None:
    """Parse, run, print, and write the json where asked."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure. Options of a benchmark: python -m benchmarks NAME --help",
        epilog="\n".join(f"{name:12}{what}" for name, what in NAMES.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=len(sys.argv) < 3,  # after a name, --help is the benchmark's own
    )
    parser.add_argument("name", choices=NAMES, metavar="NAME", help="one of those below")
    parser.add_argument("--json", type=Path, help="write the result's json here as well")
    args, rest = parser.parse_known_args()
    module = importlib.import_module(f"benchmarks.{args.name}")
    try:
        measured = module.run(rest)
    except (DiffEditError, OSError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        print("stopped; what was finished is kept where it was written", file=sys.stderr)
        sys.exit(130)
    result = {"benchmark": args.name, **measured, "machine": machine()}
    line = json.dumps(result)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(line + "\n")
    print(line)


if __name__ == "__main__":
    main()
