"""The result schema: files are written whole, read back equal, and compared where they can be."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import machine, schema
from benchmarks.compare import compare, compared
from benchmarks.schema import Check, Machine, Measurement, Model, NotRun, Result, ResultError

COMMITTED = sorted(schema.COMMITTED.rglob("*.json"))


def result(seconds: float = 1.0, *, device: str = "one", size: int = 7, **settings: Any) -> Result:
    row = Measurement.of("edit", [seconds, seconds, 3 * seconds], "s", {"stage": "total"}, rows=44)
    return Result(
        "latency",
        Machine(device),
        {"steps": 50, "size": [64, 64], **settings},
        {"backend": "torch"},
        Model("m", size),
        (row,),
        (Check("a bound", True),),
        (NotRun("a part", "no GPU"),),
    )


def write(path: Path, *results: Result) -> Path:
    schema.save(path, results)
    return path


def test_a_file_is_read_back_equal(tmp_path: Path) -> None:
    written = result()
    assert schema.load(write(tmp_path / "deep" / "a.json", written)) == [written]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.json"]


def test_samples_become_median_and_spread() -> None:
    row = Measurement.of("edit", [3.0, 1.0, 2.0])
    assert (row.value, row.low, row.high, row.repeats) == (2, 1, 3, 3)
    assert row.statistic == "median" and row.spread == "min-max"


def test_values_that_are_not_numbers_become_null(tmp_path: Path) -> None:
    row = Measurement("iou", float("nan"), extras={"p99": float("inf")})
    (read,) = schema.load(write(tmp_path / "a.json", replace(result(), measurements=(row,))))
    assert read.measurements[0].value is None and read.measurements[0].extras == {"p99": None}


def test_two_rows_that_cannot_be_told_apart_are_refused() -> None:
    row = Measurement("edit", 1.0)
    with pytest.raises(ResultError, match="two rows 'edit'"):
        replace(result(), measurements=(row, row))


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_every_committed_result_is_read_and_compared(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = schema.load(path)
    other = [replace(one, machine=replace(one.machine, device="another")) for one in results]
    names, table = compared([path, write(tmp_path / "other.json", *other)])
    known = [r for one in results for r in one.measurements if r.value is not None]
    assert names[1] == "another" and len(table) == len(known) > 0
    compare([path, tmp_path / "other.json"])
    assert known[0].title in capsys.readouterr().out


def test_committed_results_with_other_settings_are_refused() -> None:
    files = {path.stem.removeprefix("cpu-amd-epyc-2-"): path for path in COMMITTED}
    with pytest.raises(ResultError, match="serving was measured with real False and True"):
        compared([files["serving"], files["serving-demo"]])
    names, table = compared([files["profile-eager"], files["profile-kernels"]])
    assert names == [files["profile-eager"].stem, files["profile-kernels"].stem]
    assert table["profile: call, s"] == {names[0]: 3.65905, names[1]: 1.72187}


def test_devices_are_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [
        write(tmp_path / "a.json", result(2.0, device="slow")),
        write(tmp_path / "b.json", result(0.5, device="fast")),
    ]
    assert compared(files) == (
        ["slow", "fast"],
        {"latency: edit (stage total), s": {"slow": 2.0, "fast": 0.5}},
    )
    compare(files)
    assert "slow" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (result(steps=10), "steps 50 and 10 in a and b"),
        (result(size=8), "denoiser bytes 7 and 8"),
        (replace(result(), benchmark="ladder"), "no measurement in common"),
    ],
)
def test_results_that_cannot_be_compared_are_refused(
    other: Result, sentence: str, tmp_path: Path
) -> None:
    files = [write(tmp_path / "a.json", result()), write(tmp_path / "b.json", other)]
    with pytest.raises(ResultError, match=sentence):
        compared(files)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "is not JSON"),
        ("[]", "has no results"),
        ('{"schema": 99, "results": []}', "schema 99"),
        ('{"schema": 2, "results": [{"benchmark": "a"}]}', "does not follow the schema: 'machine'"),
        (
            '{"schema": 2, "results": [{"benchmark": "a", "machine": 1}]}',
            "does not follow the schema: .*must be a mapping",
        ),
        (
            '{"schema": 2, "results": [{"benchmark": "a", "machine": {"device": "b"}, "x": 1}]}',
            "does not follow the schema: .*unexpected keyword argument 'x'",
        ),
    ],
)
def test_a_file_that_is_no_result_is_refused(content: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(ResultError, match=sentence):
        schema.load(path)
    with pytest.raises(ResultError, match="cannot be read"):
        schema.load(tmp_path / "none.json")
    with pytest.raises(ResultError, match="two or more"):
        compared([path, path])


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match="cannot be written"):
        write(tmp_path / "file" / "a.json", result())


def test_the_machine_is_described() -> None:
    found = machine.machine()
    assert found.device and found.versions["torch"] == found.torch
    assert found.commit is None or isinstance(found.dirty, bool)
    assert json.loads(schema.dumps([replace(result(), machine=found)]))
