"""What the benchmarks of our kernels for CPUs have in common: every way at every shape, timed."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from benchmarks.roofline import durations, matrix_ceiling

CPU = torch.device("cpu")
OURS = "our kernel"

Calls = dict[str, Callable[[], Tensor]]
Shape = tuple[int, int, int]
Lines = list[dict[str, Any]]


def compare(
    rows: int, shapes: Iterable[Shape], measured: Callable[[Shape], Lines]
) -> dict[str, Any]:
    """The matrix ceiling, then `measured` of every shape."""
    peak = matrix_ceiling(CPU, torch.bfloat16)
    print(f"a matrix product in bf16 reaches {peak / 1e12:.3f} TFLOP/s")
    lines = [line for shape in shapes for line in measured(shape)]
    if not any(line["way"] == OURS for line in lines):
        print("our kernel cannot be had here, or is slower than PyTorch's")
    return {"rows": rows, "matrix_tflops": round(peak / 1e12, 3), "calls": lines}


def timed(shape: Shape, said: str, calls: Calls, true: Tensor, flops: int, repeats: int) -> Lines:
    """One shape: a line for every way, printed; the error is against `true`."""
    lines = []
    for way, call in calls.items():
        error = float((call().float() - true).norm() / true.norm())
        seconds = min(durations(call, CPU, repeats))
        rate = flops / seconds / 1e12
        lines.append(
            {
                "shape": list(shape),
                "way": way,
                "ms": round(1e3 * seconds, 2),
                "tflops": round(rate, 3),
                "relative_error": round(error, 6),
            }
        )
        print(
            f"{said}  {way:24} {1e3 * seconds:8.1f} ms  {rate:6.3f} TFLOP/s  error {error:.1e}",
            flush=True,
        )
    return lines


def parser(name: str, description: str | None, repeats: int) -> argparse.ArgumentParser:
    """The options of such a benchmark."""
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks {name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--rows", type=int, default=2, help="of a call (2)")
    made.add_argument(
        "--repeats", type=int, default=repeats, help=f"calls a figure, the best ({repeats})"
    )
    return made
