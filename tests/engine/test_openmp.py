"""A thread that only loads weights does not keep workers that another one's would have to share."""

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
alone = threads()
assert work() == 3 << 20
print(threads() - alone, release_team(), threads() - alone)
networks = TorchNetworks.open(Checkpoint.open(sys.argv[1]), device="cpu", dtype="fp32")
print(threads() - alone)
assert work() == 3 << 20
print(threads() - alone)
"""


def gnu_openmp() -> bool:
    """Whether PyTorch brought GNU's OpenMP into this process."""
    maps = Path("/proc/self/maps")
    return maps.exists() and torch.backends.openmp.is_available() and "libgomp" in maps.read_text()


@pytest.mark.skipif(not gnu_openmp(), reason="PyTorch uses another OpenMP than GNU's")
def test_workers_end_and_come_back(tiny: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tiny)],
        text=True,
        capture_output=True,
        check=True,
    )
    counts = done.stdout.split()
    assert counts == ["1", "True", "0", "0", "1"]
