"""Shared fixtures and the rules of the test run: threads, examples, GPU tests, skips in CI."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from PIL import Image

from demo import random_checkpoint
from demo.picture import still_life

# Tensors are slow to draw and the first call of anything compiles: no per-example deadline. In CI
# every run draws the same examples, so that a failure is caused by the change.
settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("local"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

# The networks here are tiny: a second thread has nothing to do and waits by spinning, which costs
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
    "tests/export/",
    "tests/server/",
    "tests/benchmarks/",
    "tests/demo/",
    "tests/engine/",
)
"""Folders in the order in which parallel workers start them: the longest first."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip GPU tests without a GPU; keep each file, and the export folder, on one worker."""
    skip = pytest.mark.skip(reason=f"needs a CUDA device; PyTorch {torch.__version__} has none")
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(skip)
        file = item.nodeid.split("::")[0]
        shared = "tests/export/"  # its tests share builds that take a minute
        item.add_marker(pytest.mark.xdist_group(shared if file.startswith(shared) else file))
    if os.environ.get("PYTEST_XDIST_WORKER"):
        items.sort(key=lambda item: _weight(item.nodeid))


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
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder (random weights, epsilon): factor 4, native 64 px. Read only."""
    return random_checkpoint.make(tmp_path_factory.mktemp("tiny") / "model", "tiny")


@pytest.fixture(scope="session")
def tiny_v(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with other weights and a v-prediction scheduler. Read only."""
    folder = tmp_path_factory.mktemp("tiny-v") / "model"
    scheduler = {"prediction_type": "v_prediction"}
    return random_checkpoint.make(folder, "tiny", seed=1, scheduler=scheduler)


@pytest.fixture
def photo() -> Image.Image:
    """A small deterministic photograph, PIL RGB, 96 x 72 (width x height)."""
    return still_life(96, 72)
