"""Result files: kept whole, read back, compared only where they can be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import compare, machine
from benchmarks.results import ResultError, keep, load


def latency(seconds: float, steps: int = 50, unet_bytes: int = 7) -> dict[str, Any]:
    times = {"total": {"p50": seconds}}
    return {
        "benchmark": "latency",
        "settings": {"steps": steps, "size": [64, 64]},
        "model": {"name": "m", "unet_bytes": unet_bytes},
        "result": {"warm": times, "next": times},
    }


def write(path: Path, *runs: dict[str, Any], device: str = "one") -> Path:
    for run in runs:
        keep(path, run, machine={"device": device}, date="2026-01-01")
    return path


def test_runs_add_up_and_the_same_one_is_replaced(tmp_path: Path) -> None:
    path = write(tmp_path / "deep" / "a.json", latency(1.0), latency(2.0, steps=10), latency(3.0))
    found = load(path)
    assert [r["settings"]["steps"] for r in found["runs"]] == [10, 50]
    assert found["runs"][1]["result"]["warm"]["total"]["p50"] == 3.0
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_devices_stand_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [
        write(tmp_path / "a.json", latency(2.0), device="slow"),
        write(tmp_path / "b.json", latency(0.5), device="fast"),
    ]
    found = compare.run([*map(str, files), "--plot", str(tmp_path / "c.png")])
    row = found["table"]["latency, warm edit, s (p50)"]
    assert row == {"slow": 2.0, "fast": 0.5}
    assert found["table"]["latency, images a second"] == {"slow": 0.5, "fast": 2.0}
    assert "slow" in capsys.readouterr().out
    assert (tmp_path / "c.png").stat().st_size > 5000


def test_devices_of_one_name_are_told_apart(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{name}.json", latency(1.0)) for name in ("old", "new")]
    assert compare.run([*map(str, files)])["devices"] == ["old", "new"]


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (latency(1.0, steps=10), "steps 50 and 10"),
        (latency(1.0, unet_bytes=8), "models of other sizes"),
        ({"benchmark": "row", "result": {}}, "no benchmark in common"),
    ],
)
def test_what_cannot_be_compared_is_said(
    other: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    files = [write(tmp_path / "a.json", latency(1.0)), write(tmp_path / "b.json", other)]
    with pytest.raises(ResultError, match=sentence):
        compare.run([*map(str, files)])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "is no json"),
        ("[]", "holds no results"),
        ('{"schema": 99, "runs": []}', "schema 99"),
    ],
)
def test_a_file_of_something_else(content: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(ResultError, match=sentence):
        load(path)
    with pytest.raises(ResultError, match="cannot be read"):
        load(tmp_path / "none.json")
    with pytest.raises(ResultError, match="two or more"):
        compare.run([str(path), str(path)])


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match="cannot be written"):
        write(tmp_path / "file" / "a.json", latency(1.0))


def test_the_machine_is_told_in_json() -> None:
    found = machine.machine()
    assert json.loads(json.dumps(found)) == found
    assert found["device"] and found["versions"]["torch"] == found["torch"]
    assert machine.slug("NVIDIA H200 (2)") == "nvidia-h200-2"
