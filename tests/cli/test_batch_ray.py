"""`batch --ray` with two actors on this machine: outcomes, a killed worker, resuming, Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.processes import rest_of
from tests.waiting import eventually

pytest.importorskip("ray", reason="needs the ray extra")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
EDIT: dict[str, Any] = {
    "image": "in.png",
    "prompt": "a blue ball",
    "source_prompt": "a red ball",
    "num_inference_steps": 2,
    "mask_thresholding_ratio": 1.0,
}
LONG = EDIT | {"num_inference_steps": 100}
COMMAND = [sys.executable, "-m", "diffedit.cli", "batch", "edits.jsonl", "--dtype", "fp32"]
RAY = ["--ray", "--ray-actors", "2", "--ray-cpus", "0.5"]
ENVIRONMENT = {"PYTHONPATH": str(ROOT)}


def write(*rows: dict[str, Any] | str) -> None:
    text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
    Path("edits.jsonl").write_text(text)


@contextmanager
def started(*options: str) -> Iterator[subprocess.Popen[str]]:
    """The command as a process, in a process group of its own as a shell starts it."""
    process = subprocess.Popen(
        [*COMMAND, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **ENVIRONMENT},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)  # it stops Ray
            rest_of(process, 60)


def finished(process: subprocess.Popen[str]) -> tuple[int, dict[int, dict[str, Any]], str]:
    """Wait for the end: exit code, outcomes by line, and standard error."""
    out, err = rest_of(process)
    outcomes = [json.loads(line) for line in out.splitlines()]
    return process.returncode, {outcome["line"]: outcome for outcome in outcomes}, err


def run(*options: str) -> tuple[int, dict[int, dict[str, Any]], str]:
    with started(*options) as process:
        return finished(process)


def workers(of: subprocess.Popen[str]) -> list[int]:
    """Process ids of the actors that run edits, of this command's Ray alone."""
    listed = subprocess.run(
        ["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split(maxsplit=2) for line in listed.splitlines()]
    parents = {int(row[0]): int(row[1]) for row in rows}
    names = {int(row[0]): row[2] if len(row) > 2 else "" for row in rows}

    def is_ours(pid: int) -> bool:
        while pid in parents and pid != of.pid:
            pid = parents[pid]
        return pid == of.pid

    return [
        pid for pid, name in names.items() if name.startswith("ray::MapWorker") and is_ours(pid)
    ]


def test_the_outcomes_and_files_are_those_of_one_process(work: Path) -> None:
    """And a bad line is refused before Ray starts; the second run skips what is there."""
    rows = [EDIT | {"out": f"{seed}.png", "seed": seed} for seed in range(5)]
    write(*rows, "{not json", EDIT | {"out": "late.png", "image": "gone.png"})
    alone = ("--in-flight", "1")  # edits that share calls differ in their last bits
    code, outcomes, err = run(*RAY, *alone)
    assert code == 2, err
    assert [outcomes[n]["status"] for n in range(1, 8)] == ["done"] * 5 + ["failed"] * 2
    assert "5 of 7 edits done, 2 failed" in err and "backend: torch" in err
    assert "not a JSON object" in outcomes[6]["error"]["message"]
    assert "gone.png does not exist" in outcomes[7]["error"]["message"]
    before = {path: path.read_bytes() for path in work.glob("?.png")}
    assert len(before) == 5
    code, again, err = run()
    assert code == 2, err
    assert {again[n]["status"] for n in range(1, 6)} == {"skipped"}, "the local batch agrees"
    for path in before:
        path.unlink()
    (work / "0.png").write_bytes(before[work / "0.png"])
    assert run("-q", *alone)[0] == 2
    same = [path.name for path, data in before.items() if path.read_bytes() == data]
    assert same == [path.name for path in before], "the same pictures, to the byte"
    code, again, err = run(*RAY)
    assert {again[n]["status"] for n in range(1, 6)} == {"skipped"}
    keys = {"line", "status", "out", "parameters", "model", "provenance", "stats"}
    assert keys <= set(outcomes[1])


def test_a_killed_worker_loses_nothing(work: Path) -> None:
    write(*(LONG | {"out": f"{seed}.png", "seed": seed} for seed in range(6)))
    with started(*RAY, "--in-flight", "1") as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        assert first["status"] == "done"
        os.kill(workers(process)[0], signal.SIGKILL)
        code, outcomes, err = finished(process)
    assert code == 0, err
    outcomes[first["line"]] = first
    assert sorted(outcomes) == [1, 2, 3, 4, 5, 6]
    assert {outcome["status"] for outcome in outcomes.values()} <= {"done", "skipped"}
    assert sorted(p.name for p in work.glob("*.png")) == [*(f"{n}.png" for n in range(6)), "in.png"]
    assert not list(work.glob(".*.tmp"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_continues_where_it_stopped(
    number: signal.Signals, code: int, work: Path
) -> None:
    write(*(LONG | {"out": f"{seed}.png", "seed": seed} for seed in range(4)))
    with started(*RAY, "--in-flight", "1") as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        children = workers(process)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does: Ray's processes get it, too
        else:
            process.send_signal(number)  # as `kill` and container runtimes do
        found, _, err = finished(process)
    assert found == code, err
    assert "Traceback" not in err
    assert eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))
    assert not list(work.glob(".*.tmp"))
    again, outcomes, err = run(*(RAY if number == signal.SIGINT else ()))
    assert again == 0, err
    assert outcomes[first["line"]]["status"] == "skipped"
    assert {outcome["status"] for outcome in outcomes.values()} == {"done", "skipped"}


DEADLY = """
import os, sys, threading, time

def patch():
    while not hasattr(sys.modules.get("diffedit.cli.batch_run"), "Run"):
        time.sleep(0.01)
    run = sys.modules["diffedit.cli.batch_run"].Run
    outcomes = run.outcomes

    def dying(self, edits, in_flight):
        if edits[0].request.prompt == "deadly":
            os._exit(9)
        return outcomes(self, edits, in_flight)

    run.outcomes = dying

threading.Thread(target=patch, daemon=True).start()
"""
"""A sitecustomize: the process ends when it runs an edit with this prompt."""


def test_a_line_that_ends_its_worker_every_time_fails_alone(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (work / "fault").mkdir()
    (work / "fault" / "sitecustomize.py").write_text(DEADLY)
    monkeypatch.setitem(ENVIRONMENT, "PYTHONPATH", f"{work / 'fault'}:{ROOT}")
    write(*(EDIT | {"out": f"{n}.png", "prompt": prompt} for n, prompt in enumerate("abc")))
    with Path("edits.jsonl").open("a") as file:
        file.write("\n" + json.dumps(EDIT | {"out": "deadly.png", "prompt": "deadly"}))
    code, outcomes, err = run(*RAY, "--in-flight", "1")
    assert code == 5, err
    assert [outcomes[n]["status"] for n in range(1, 5)] == ["done"] * 3 + ["failed"]
    assert "lost 4 times" in outcomes[4]["error"]["message"]


def test_refusals_need_no_ray_process(work: Path) -> None:
    write(EDIT | {"out": "a.png"})
    cases = [
        (["--model", "none"], 3, "none"),
        (["--ray-actors", "500", "--ray-cpus", "4"], 2, "there is room for"),
    ]
    for options, code, words in cases:
        found, outcomes, err = run("--ray", *options)
        assert (found, outcomes) == (code, {}), err
        assert words in err and "Traceback" not in err
