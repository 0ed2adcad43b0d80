"""The benchmarks run, end in one line of json, and say what they were measured on."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from benchmarks import __main__ as door
from benchmarks import overhead, row


def test_overhead_is_within_its_bounds_and_grows_with_rows() -> None:
    """The bounds are wide of what was measured (17 us a call, 5 us a row), so that a busy machine
    passes and a copy too many does not."""
    found = overhead.run(["--turns", "60", "--repeats", "3"])
    assert 0 < found["per_row_us"] < 3 * overhead.BOUND_ROW
    assert found["per_call_us"] < 3 * overhead.BOUND_CALL
    assert found["microseconds"]["20"] > found["microseconds"]["1"]


def test_rows_are_timed_at_every_batch_and_precision(tiny: Path) -> None:
    found = row.run(
        ["--model", str(tiny), "--dtypes", "fp32", "--batches", "1,3", "--repeats", "1"]
    )
    assert [call["batch"] for call in found["calls"]] == [1, 3]
    assert all(call["seconds"] > 0 and "fp32" in call["backend"] for call in found["calls"])


def test_a_run_ends_in_json_with_its_machine(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "results" / "row.json"
    options = ["--model", str(tiny), "--dtypes", "fp32", "--batches", "1", "--repeats", "1"]
    monkeypatch.setattr("sys.argv", ["benchmarks", "row", "--json", str(kept), *options])
    door.main()
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed == json.loads(kept.read_text())
    assert printed["benchmark"] == "row" and printed["machine"]["torch"]


def test_a_missing_model_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks", "row", "--model", "/no/such/model"])
    with pytest.raises(SystemExit, match="no model folder"):
        door.main()


def test_an_unknown_name_lists_those_that_exist(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks", "speed"])
    with pytest.raises(SystemExit):
        door.main()
    assert "overhead" in capsys.readouterr().err


def test_every_benchmark_has_its_line_of_help() -> None:
    folder = Path(door.__file__).parent
    modules = {p.stem for p in folder.glob("*.py")} | {p.parent.name for p in folder.glob("*/*.py")}
    runnable = {
        name
        for name in modules - {"__init__", "__main__", "benchmarks", "serving_load"}  # locust's
        if hasattr(importlib.import_module(f"benchmarks.{name}"), "run")
    }
    assert runnable == set(door.NAMES)
