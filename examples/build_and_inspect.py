"""Compile a model, and read the built files and their verification from the manifest.

python examples/build_and_inspect.py demo/model build/examples/engines
"""

import sys
from pathlib import Path

from engine.manifest import Manifest
from export.build import build


def main(model: str, out: str, side: str = "128") -> None:
    """Build ONNX files (and engines where this machine can), then print the manifest."""
    sizes = [(int(side), int(side))]
    build(model, Path(out), sizes=sizes, batches=(1, 2), precision="fp32", target="onnx")

    manifest = Manifest.load(out)
    print(f"engines of {manifest.source}")
    for entry in manifest.entries:
        spec, size = entry.spec, f"{entry.bytes / 1e6:.1f} MB"
        print(f"{spec.name}: {entry.format}, {spec.precision}, rows {spec.batch_sizes}, {size}")
        for check in entry.own_checks:
            print(f"  {check.backend}, {check.batch} rows: {check.status} {check.reason}")


if __name__ == "__main__":
    main(*sys.argv[1:])
