"""Shared fixtures and the rules of the test run: threads, examples, GPU tests, skips in CI."""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from PIL import Image

from demo import random_checkpoint
from demo.picture import still_life
from tests.micro import make_micro
from tests.shared import CommandBuild, Folders, shared

ROOT = Path(__file__).resolve().parent.parent

# Tensors are slow to draw and the first call of anything compiles: no per-example deadline. In CI
# every run draws the same examples, so that a failure is caused by the change.
settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("local"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

# The networks here are tiny, so a second thread only waits by spinning, which costs
# ten times the test's own time on a busy machine.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start

# What the environment of the caller sets must not change a test.
for name in [n for n in os.environ if n.startswith(("DIFFEDIT_", "HF_"))]:
    if not name.startswith("DIFFEDIT_CONTRACT_"):
        del os.environ[name]
os.environ["HF_HUB_OFFLINE"] = "1"

ALLOWED_IN_CI = re.compile(
    "needs a CUDA device|this processor has no|has no CUDA|root may write|not applicable"
)
"""Reasons for skipping that a machine without a GPU cannot change. In CI every other skip, such as
a missing tool, is a failure."""

HEAVY_FIRST = (
    "tests/export/test_build.py",
    "tests/engine/test_conformance.py",
    "tests/families/",
    "tests/benchmarks/",
    "tests/server/",
    "tests/export/",
    "tests/demo/",
    "tests/engine/",
)
"""The order in which parallel workers start files: the longest folders first. The first two files
make the engines that many others share, in two workers, so that no worker waits for another."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip GPU tests without a GPU; sort files. `--dist loadfile` keeps a file on one worker."""
    skip = pytest.mark.skip(reason=f"needs a CUDA device; PyTorch {torch.__version__} has none")
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(skip)
    if os.environ.get("PYTEST_XDIST_WORKER"):
        items.sort(key=lambda item: _weight(item.nodeid))


def pytest_collection_finish() -> None:
    """Objects that the imports made stay to the end, so garbage collections may skip them."""
    gc.collect()
    gc.freeze()


def _weight(nodeid: str) -> int:
    found = [n for n, folder in enumerate(HEAVY_FIRST) if nodeid.startswith(folder)]
    return found[0] if found else len(HEAVY_FIRST)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """In CI, a test that is skipped because something is not installed fails."""
    outcome = yield
    _require_tools(outcome.get_result())  # type: ignore[attr-defined]


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report() -> Iterator[None]:
    """The same for a whole file."""
    outcome = yield
    _require_tools(outcome.get_result())  # type: ignore[attr-defined]


def _require_tools(report: pytest.TestReport | pytest.CollectReport) -> None:
    reason = str(report.longrepr)
    if os.environ.get("CI") and report.skipped and not ALLOWED_IN_CI.search(reason):
        report.outcome = "failed"
        report.longrepr = f"Nothing may be skipped in CI because a tool is missing: {reason}"


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """The checkpoint of a kind, with the weights of seed 0. Read only."""

    def checkpoint(kind: str) -> Path:
        def make(new: Path) -> None:
            random_checkpoint.make(new / kind, kind)

        return shared(tmp_path_factory, f"checkpoint-{kind}", make) / kind

    return checkpoint


@pytest.fixture(scope="session")
def tiny(folders: Folders) -> Path:
    """A checkpoint folder (random weights, epsilon): factor 4, native 64 px. Read only."""
    return folders("tiny")


@pytest.fixture(scope="session")
def tiny_v(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with other weights and a v-prediction scheduler. Read only."""
    scheduler = {"prediction_type": "v_prediction"}

    def make(new: Path) -> None:
        random_checkpoint.make(new / "model", "tiny", seed=1, scheduler=scheduler)

    return shared(tmp_path_factory, "tiny-v", make) / "model"


@pytest.fixture(scope="session")
def micro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest checkpoint. Read only."""
    return shared(tmp_path_factory, "micro", lambda new: make_micro(new / "model")) / "model"


@pytest.fixture(scope="session")
def command_build(micro: Path, tmp_path_factory: pytest.TempPathFactory) -> CommandBuild:
    """`micro`, built by the command line: fp32, profiles 1 and 2, engines of TensorRT for RTX if it
    is installed."""
    target = "tensorrt-rtx" if importlib.util.find_spec("tensorrt_rtx") else "onnx"
    size = ("--height", "16", "--width", "16", "--batches", "1,2")
    options = (*size, "--precision", "fp32", "--target", target)

    def make(new: Path) -> None:
        command = [sys.executable, "-m", "export", "--model", str(micro), "--out", str(new / "out")]
        done = subprocess.run(
            [*command, *options], capture_output=True, text=True, cwd=ROOT, check=False
        )
        (new / "said.json").write_text(json.dumps([done.returncode, done.stdout, done.stderr]))

    folder = shared(tmp_path_factory, "command-build", make)
    return CommandBuild(
        micro, folder / "out", options, *json.loads((folder / "said.json").read_text())
    )


@pytest.fixture(scope="session")
def micro_build(command_build: CommandBuild) -> Path:
    """The engine folder of `micro`. Read only."""
    assert command_build.code == 0, command_build.stderr
    return command_build.out


@pytest.fixture(scope="session")
def onnx_engines(folders: Folders, tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """The ONNX files of a kind of random checkpoint: fp32, 64 x 64, profiles 1, 2, 4, not verified.
    Read only."""
    from export.build import build

    def engines(kind: str) -> Path:
        kind = kind.removesuffix("-turbo")  # only the scheduler is another one

        def make(new: Path) -> None:
            options: dict[str, Any] = {"precision": "fp32", "batches": (1, 2, 4), "verify": False}
            build(str(folders(kind)), new / "engines", sizes=[(64, 64)], target="onnx", **options)

        return shared(tmp_path_factory, f"onnx-{kind}", make) / "engines"

    return engines


@pytest.fixture
def photo() -> Image.Image:
    """A small deterministic photograph, PIL RGB, 96 x 72 (width x height)."""
    return still_life(96, 72)
