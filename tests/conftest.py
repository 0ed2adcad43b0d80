"""What every test may ask for: tiny checkpoints made once, a photograph, and the GPU's absence."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from PIL import Image

from demo import random_checkpoint
from demo.picture import still_life

# Tensors are slow to draw and the first call of anything compiles: no per-example deadline. In CI
# every run draws the same examples, so that a red run says something about the change.
settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("local"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

# The networks here are tiny: a second thread has nothing to do and waits for its share by spinning,
# which costs ten times the test's own time wherever something else runs too.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked `gpu` where PyTorch sees no CUDA device."""
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason=f"needs a CUDA device; PyTorch {torch.__version__} sees none")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)


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
