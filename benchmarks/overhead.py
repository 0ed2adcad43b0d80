"""What the batcher and the buffers cost beside the networks: microseconds a call and a row.

Flows on the fake backend ask for b rows a turn; the time inside the backend is taken off, and a
line through the costs at several b gives the price of a call and of a row.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import numpy as np
import torch

from engine.backends.fake import CHANNELS, TEXT_WIDTH, TOKENS, FakeBackend, FakeNetworks
from engine.batcher import Batcher
from engine.rows import Flow, Row

LATENT = (CHANNELS, 64, 64)  # that of a 512 px picture
SIZES = (1, 2, 4, 8, 16, 20)
BOUND_CALL, BOUND_ROW = 100.0, 10.0


class Timed(FakeBackend):
    """A fake UNet that notes how long it took itself."""

    seconds = 0.0

    def __call__(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        began = time.perf_counter()
        output = batch["latent"]  # the cheapest network of all
        self.seconds += time.perf_counter() - began
        return (output,)


def asks(rows: list[Row], turns: int) -> Flow[None]:
    """The same rows, turn after turn."""
    for _ in range(turns):
        yield rows


def cost(size: int, turns: int) -> float:
    """Seconds a call with `size` rows costs beyond the backend's own."""
    networks = FakeNetworks(denoiser_batch_sizes=SIZES)
    backend = networks.backends["unet", LATENT] = Timed(networks.find("unet", LATENT).spec)
    row = Row("unet", (torch.zeros(LATENT), torch.tensor(1.0), torch.zeros(TOKENS, TEXT_WIDTH)))
    batcher = Batcher(networks)
    batcher.submit(asks([row] * size, turns))
    began = time.perf_counter()
    while batcher.step():
        pass
    return (time.perf_counter() - began - backend.seconds) / turns


def run(arguments: list[str]) -> dict[str, Any]:
    """Measure, print the table, and return the figures with their bounds."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks overhead", description=__doc__)
    parser.add_argument("--turns", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args(arguments)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cost(4, args.turns)  # warm up
    medians = {
        size: 1e6 * statistics.median(cost(size, args.turns) for _ in range(args.repeats))
        for size in SIZES
    }
    torch.set_num_threads(threads)
    per_row, per_call = np.polyfit(list(medians), list(medians.values()), 1)
    for size, microseconds in medians.items():
        print(f"{size:3d} rows a call  {microseconds:7.1f} us")
    print(
        f"a call {per_call:.1f} us (bound {BOUND_CALL:g}), a row {per_row:.1f} us ({BOUND_ROW:g})"
    )
    return {
        "microseconds": {str(size): round(us, 2) for size, us in medians.items()},
        "per_call_us": round(float(per_call), 2),
        "per_row_us": round(float(per_row), 2),
        "within_bounds": bool(per_call < BOUND_CALL and per_row < BOUND_ROW),
    }
