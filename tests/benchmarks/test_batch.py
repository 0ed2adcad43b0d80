"""`python -m benchmarks batch` on a tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.batch import Run, _timed, batch
from benchmarks.workload import Workload
from engine.errors import DiffEditError

pytest.importorskip("ray", reason="needs the ray extra")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_it_compares_workers_with_one_process(tiny: Path) -> None:
    work = Workload(tiny, steps=2, maps=1)
    result = batch(work, lines=4, actors=2, in_flight=1, repeats=1)
    titles = [row.title for row in result.measurements]
    for run in ("one process, 1 core", "1 worker, 1 core", "2 workers, 1 core each"):
        assert f"line (run {run})" in titles
    assert "overhead of a line with Ray" in titles
    assert all(row.value is not None for row in result.measurements)


def test_a_run_that_fails_is_an_error(tiny: Path) -> None:
    work = Workload(tiny, steps=2, maps=1)
    with pytest.raises(DiffEditError, match="ended with 2"):
        _timed(work, Run("broken", ("--ray-actors", "1")), 3, 1)
