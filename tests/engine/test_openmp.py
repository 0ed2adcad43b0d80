"""The OpenMP workers of the thread that loads the weights end when loading is done."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = """
import os, sys
import torch
from engine.backends.torch.openmp import release_team
from engine.backends.torch.networks import TorchNetworks
from engine.checkpoint import Checkpoint

def threads():
    return len(os.listdir("/proc/self/task"))

def work():
    return float(torch.ones(1 << 20).mul(3).sum())

torch.set_num_threads(2)
idle = threads()
assert work() == 3 << 20
print(threads() - idle, release_team(), threads() - idle)
networks = TorchNetworks.open(Checkpoint.open(sys.argv[1]), device="cpu", dtype="fp32")
print(threads() - idle)
assert work() == 3 << 20
print(threads() - idle)
"""


def gnu_openmp() -> bool:
    """Return whether PyTorch loaded GNU's OpenMP into this process."""
    maps = Path("/proc/self/maps")
    return maps.exists() and torch.backends.openmp.is_available() and "libgomp" in maps.read_text()


@pytest.mark.slow
@pytest.mark.skipif(not gnu_openmp(), reason="PyTorch does not use GNU's OpenMP")
def test_workers_end_after_loading_and_start_again(tiny: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tiny)],
        text=True,
        capture_output=True,
        check=True,
    )
    counts = done.stdout.split()
    assert counts == ["1", "True", "0", "0", "1"]
