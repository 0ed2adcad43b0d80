"""Seconds for one call of the UNet: per backend, precision and batch size, on one checkpoint.

    python -m benchmarks row --model FOLDER [--size 512] [--dtypes bf16,fp32] [--engines FOLDER]

`--engines` adds ONNX Runtime on the ONNX file in that folder, `--openvino` OpenVINO as well. Each
figure is the median of `--repeats` calls after one warm-up; nothing else should run on the machine
meanwhile.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.subject import whole_numbers
from engine.backends import Networks
from engine.backends.torch.networks import TorchNetworks
from engine.checkpoint import Checkpoint
from engine.dtypes import TORCH_DTYPES
from engine.netspec import parse_size


def seconds(networks: Networks, shape: tuple[int, ...], batch: int, repeats: int) -> float:
    """The median duration of a call with `batch` rows."""
    backend = networks.find("unet", shape)
    inputs = {
        t.name: torch.rand((batch, *t.shape), dtype=TORCH_DTYPES[t.dtype], device=networks.device)
        for t in backend.spec.inputs
    }
    taken = []
    for _ in range(repeats + 1):
        _wait(networks)
        began = time.perf_counter()
        with torch.inference_mode():
            backend(inputs)
        _wait(networks)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])


def _wait(networks: Networks) -> None:
    if networks.device.type == "cuda":
        torch.cuda.synchronize()


def run(arguments: list[str]) -> dict[str, Any]:
    """Measure every combination, print a line for each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks row", description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--size", type=parse_size)
    parser.add_argument("--dtypes", default="bf16,fp32", help="PyTorch's, separated by commas")
    parser.add_argument(
        "--batches", type=whole_numbers, default=(1, 2), help="separated by commas (1,2)"
    )
    parser.add_argument("--engines", type=Path, help="an engine folder: adds ONNX Runtime")
    parser.add_argument(
        "--openvino", action="store_true", help="OpenVINO on the same ONNX file too"
    )
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args(arguments)
    checkpoint = Checkpoint.open(args.model)
    height, width = args.size or (checkpoint.family.native_size,) * 2
    cells = checkpoint.family.factor
    shape = (checkpoint.family.channels, height // cells, width // cells)
    found: list[dict[str, Any]] = []

    def measure(networks: Networks) -> None:
        for batch in args.batches:
            try:
                taken = seconds(networks, shape, batch, args.repeats)
            except ValueError as error:  # no such profile, or more than memory holds
                print(f"{networks.describe()}: {batch} rows not run: {error}")
                continue
            line = {"backend": networks.describe(), "batch": batch, "seconds": round(taken, 4)}
            found.append({**line, "seconds_per_row": round(taken / batch, 4)})
            print(f"{line['backend']}: {batch} rows {taken:.3f} s, {taken / batch:.3f} s a row")
        networks.close()

    for dtype in filter(None, args.dtypes.split(",")):
        measure(TorchNetworks.open(checkpoint, dtype=dtype))
        gc.collect()  # ONNX Runtime takes the profiles that free memory allows
    if args.engines:
        from engine.backends.onnxruntime.networks import OnnxNetworks

        measure(OnnxNetworks.open(args.engines))
    if args.engines and args.openvino:
        from benchmarks.openvino import OpenVinoNetworks

        measure(OpenVinoNetworks(args.engines))
    return {"model": args.model.name, "size": [height, width], "calls": found}
