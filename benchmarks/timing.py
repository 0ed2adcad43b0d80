"""The timing loop: warm up, then repeat."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

MINIMUM_REPEATS = 3
CPU = torch.device("cpu")


def repeat(
    call: Callable[[], object],
    repeats: int,
    *,
    device: torch.device = CPU,
    warm_ups: int = 1,
) -> list[float]:
    """Seconds of each of `repeats` calls (three or more), after some that are not timed.

    On CUDA each timing ends when the device has finished.
    """
    assert repeats >= MINIMUM_REPEATS, f"a figure needs {MINIMUM_REPEATS} repeats or more"
    seconds = []
    for _ in range(warm_ups + repeats):
        synchronize(device)
        began = time.perf_counter()
        call()
        synchronize(device)
        seconds.append(time.perf_counter() - began)
    return seconds[warm_ups:]


def synchronize(device: torch.device) -> None:
    """Wait for a CUDA device; nothing on others."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def percentiles(seconds: Sequence[float], *which: int) -> dict[str, float]:
    """E.g. {"p50": 1.2, "p99": 3.4} for `which` 50 and 99."""
    values = np.percentile(seconds, which)
    return {f"p{p}": float(f"{v:.6g}") for p, v in zip(which, values, strict=True)}
