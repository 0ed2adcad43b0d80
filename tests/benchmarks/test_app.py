"""The command line: help, json, errors and Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import app, overhead, schema
from benchmarks.compare import compare
from engine.backends.fake import TEXT_WIDTH, TOKENS
from tests.processes import rest_of

ROOT = Path(app.__file__).parents[1]


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        app.main(arguments)
    if isinstance(end.value.code, str):
        raise AssertionError(end.value.code)
    return end.value.code or 0


def test_the_help_lists_every_benchmark_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    text = capsys.readouterr().out
    for name in (
        "quality latency ladder throughput roofline kernels serving batch overhead profile compare"
    ).split():
        assert f" {name} " in text
    assert "python -m benchmarks overhead" in text


@pytest.mark.parametrize("benchmark", [*app.BENCHMARKS, compare], ids=lambda b: b.__name__)
def test_the_help_of_a_benchmark_has_an_example(
    benchmark: object, capsys: pytest.CaptureFixture[str]
) -> None:
    name = getattr(benchmark, "__name__", "").replace("_", "-")
    assert run(name, "--help") == 0
    text = capsys.readouterr().out
    assert "Example" in text and (f"benchmarks {name}" in text or "make bench" in text)
    assert name == "compare" or "--json" in text


def test_a_run_ends_in_one_json_line_which_json_writes_as_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "results" / "overhead.json"
    assert run("overhead", "--turns", "20", "--repeats", "3", "--json", str(path)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert json.loads(lines[-1]) == json.loads(path.read_text())
    (result,) = schema.load(path)
    assert result.benchmark == "overhead" and result.machine.torch
    assert lines[0].startswith("call (rows 1)") and "n=3" in lines[0]


def _copy_microseconds(turns: int = 100) -> float:
    """CPU time of the copies that a row needs: its three inputs into a batch, its output out."""
    row = torch.randn(overhead.LATENT), torch.tensor(1.0), torch.randn(TOKENS, TEXT_WIDTH)
    batch = [torch.empty(20, *tensor.shape) for tensor in row]
    began = time.thread_time()
    for turn in range(20 * turns):
        for whole, tensor in zip(batch, row, strict=True):
            whole[turn % 20].copy_(tensor)
        batch[0][turn % 20].clone()
    return 1e6 * (time.thread_time() - began) / (20 * turns)


def test_overhead_is_mostly_the_copies_and_grows_with_rows() -> None:
    """In multiples of the copies themselves, so that a slow or busy processor passes."""
    copies = [_copy_microseconds() for _ in range(2)]
    result = overhead.overhead(turns=60, repeats=3)
    copies += [_copy_microseconds() for _ in range(2)]
    row, call = result.find("a row"), result.find("a call")
    assert row.value is not None and 0 < row.value < 2.5 * max(copies)
    assert call.value is not None and call.value < 3 * overhead.BOUND_CALL
    one, twenty = (result.find("call", rows=rows).value for rows in (1, 20))
    assert one is not None and twenty is not None and twenty > one
    assert len(result.checks) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("speed",), "No such command 'speed'"),
        (("overhead", "--repeats", "2"), "greater than or equal to 3"),
        (("latency", "--size", "big"), "a size is one number or HEIGHTxWIDTH"),
        (("throughput", "--clients", "1;2"), "is not a comma-separated list"),
        (("kernels", "--only", "norm"), "use some of attention,convolution"),
    ],
)
def test_wrong_usage_is_named(
    arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    text = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert words in text


@pytest.mark.slow
def test_make_bench_keeps_what_ran_and_names_what_failed(tmp_path: Path) -> None:
    options = [f"PY={sys.executable}", f"OUT={tmp_path}", "ONLY=latency overhead"]
    arguments = ["MODEL=/no/such/model", "ARGS=--repeats 3"]
    command = ["make", "bench", *options, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "These failed: latency" in done.stderr
    assert "no model folder" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["overhead.json"]
    assert schema.load(tmp_path / "overhead.json")[0].find("a call").repeats == 3


@pytest.mark.parametrize("name", ["latency", "ladder", "throughput", "roofline", "profile"])
def test_a_missing_model_is_one_sentence(name: str) -> None:
    with pytest.raises(SystemExit, match="no model folder"):
        app.main([name, "--model", "/no/such/model"])


def test_ctrl_c_ends_with_130() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks", "overhead", "--turns", "100000000"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stderr is not None
    try:
        assert "calls of" in process.stderr.readline()  # it measures
        process.send_signal(signal.SIGINT)
        _, text = rest_of(process, 60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "stopped; the finished parts are kept in their files" in text
    assert "Traceback" not in text
