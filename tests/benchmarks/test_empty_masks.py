"""An edit without anything to edit ends after its mask: its time is no result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import gpu_check
from benchmarks.batch import batch
from benchmarks.gpu_check import exactness, runtime
from benchmarks.gpu_check.setup import Setup
from benchmarks.latency import latency
from benchmarks.serving import loaded
from benchmarks.serving_client import start_server
from benchmarks.throughput import throughput
from benchmarks.workload import Workload
from engine.errors import DiffEditError


def loaded_server(load: Workload) -> None:
    """The first of the loads of `serving --real`."""
    form = {"mask_threshold": str(load.threshold)}
    with start_server(load.model, None, form=form) as server:
        next(loaded(server, seconds=1, repeats=3))


BENCHMARKS: dict[str, Callable[[Workload], object]] = {
    "latency": lambda load: latency(load, repeats=3, cold_starts=0, check=False),
    "throughput": lambda load: throughput(load, clients=(1,), edits=1),
    "batch": lambda load: batch(load, lines=3),
    "serving": loaded_server,
}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_stops(name: str, tiny: Path) -> None:
    with pytest.raises(DiffEditError, match="choose a lower --threshold"):
        BENCHMARKS[name](Workload(tiny, steps=2, maps=1, threshold=0.99))


@pytest.mark.parametrize("step", [exactness.correctness, runtime.sharing, runtime.syncs])
def test_a_step_of_gpu_check_stops(
    step: Callable[[Setup], object], tiny: Path, tmp_path: Path
) -> None:
    setup = Setup(tiny, None, tmp_path, "cpu", 2, (1, 2), 3, 1, 0.99, rehearse=True)
    with pytest.raises(DiffEditError, match="choose a lower --threshold"):
        step(setup)


def test_a_random_model_gets_a_lower_threshold(tiny: Path, tmp_path: Path) -> None:
    """A named model keeps the default; the folder of results is made for both."""
    named = gpu_check.prepared(tiny, None, tmp_path / "a" / "b", rehearse=True)
    assert named.load.threshold == 0.5 and named.out.is_dir()
    assert gpu_check.prepared(tiny, None, tmp_path, True, threshold=0.4).load.threshold == 0.4
    random = gpu_check.prepared(None, None, tmp_path / "c", rehearse=True)
    assert random.load.threshold == 0.3 and random.load.request().mask_threshold == 0.3
