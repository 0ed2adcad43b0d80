"""Energy meters on made-up drivers: a tool that prints watts, and counters in files."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from benchmarks.power import Meter, difference, summed


def domain(folder: Path, name: str, energy: int) -> Path:
    (folder / name).mkdir(parents=True)
    (folder / name / "energy_uj").write_text(f"{energy}\n")
    (folder / name / "max_energy_range_uj").write_text("1000000000\n")
    return folder / name / "energy_uj"


def test_samples_hold_until_the_next() -> None:
    assert summed([(0.0, 100.0), (0.5, 300.0), (1.5, float("nan"))]) == pytest.approx(350)
    assert summed([(0.0, 100.0), (0.5, float("nan"))]) is None  # one sample says nothing


def test_a_processors_packages_are_added_and_may_start_anew(tmp_path: Path) -> None:
    first = domain(tmp_path, "intel-rapl:0", 5_000_000)
    second = domain(tmp_path, "intel-rapl:1", 999_000_000)
    domain(tmp_path, "intel-rapl:0:0", 1)  # a part of the first: not counted twice
    with Meter(cuda=False, rapl=tmp_path) as meter:
        first.write_text("8000000")
        second.write_text("1000000")
    assert meter.joules == pytest.approx(3 + 2)
    assert difference(9, 1, 10) == 2


def test_no_meter_is_none(tmp_path: Path) -> None:
    with Meter(cuda=False, rapl=tmp_path / "nowhere") as meter:
        pass
    assert meter.joules is None


@pytest.mark.parametrize(("answer", "known"), [("200.0", True), ("[N/A]", False)])
def test_a_drivers_watts_are_summed(
    answer: str, known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\nwhile :; do echo '{answer}'; sleep 0.02; done\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    began = time.perf_counter()
    with Meter(cuda=True) as meter:
        time.sleep(0.6)
    taken = time.perf_counter() - began
    if known:
        assert meter.joules is not None and 200 * 0.2 < meter.joules <= 200 * taken
    else:
        assert meter.joules is None
