"""The steps of gpu-check and the tests marked `gpu`, on the simulated GPU.

A rehearsal on the CPU does not take the paths that only a GPU has; this does. Speed means nothing
here, and the compilers (`torch.compile`, TensorRT) do not run on the simulation.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import app, roofline
from benchmarks.gpu_check import STEPS
from benchmarks.gpu_check.setup import Setup
from tests.shared import Folders
from tests.simulated_gpu import simulated_gpu

ROOT = Path(app.__file__).parents[1]
pytestmark = pytest.mark.slow
OTHERS = ("compiled", "server", "onnxruntime", "tensorrt", "tensorrt-rtx", "tests")
TESTS = ("engine/test_cuda_gpu.py", "algorithm/test_edit_gpu.py", "algorithm/test_mask_cleaning.py")
"""The files with tests marked `gpu` that need PyTorch only."""


@pytest.fixture
def setup(folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setup:
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    monkeypatch.setitem(roofline.SIDES, "cuda", (64, 128))
    monkeypatch.setitem(roofline.COPIED, "cuda", 2**16)
    return Setup(folders("tiny"), None, tmp_path, "cuda", 4, (1, 2), 3, 2, 0.3, rehearse=True)


@pytest.mark.parametrize("name", [name for name in STEPS if name not in OTHERS])
def test_a_step(name: str, setup: Setup) -> None:
    with simulated_gpu():
        found = STEPS[name](setup)
    assert found.measurements, found.not_run
    assert [check for check in found.checks if not check.met] == []
    assert {one.name for one in found.not_run} <= {
        "attention by cuDNN",
        "attention memory-efficient",
    }


def test_the_tests_marked_gpu() -> None:
    files = [f"tests/{name}" for name in TESTS]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-p", "tests.simulated_gpu.plugin", *files],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout


def test_without_its_provider_onnxruntime_builds_nothing(setup: Setup) -> None:
    """An export of minutes would be lost."""
    with simulated_gpu():
        (missing,) = STEPS["onnxruntime"](setup).not_run
    assert "has no CUDA (install onnxruntime-gpu instead)" in missing.reason
    assert not [*setup.out.iterdir()]
