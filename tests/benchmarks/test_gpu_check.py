"""gpu-check on the CPU with tiny networks: every step, in an environment without other packages."""

from __future__ import annotations

import importlib.metadata
import multiprocessing
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import app, gpu_check, schema
from benchmarks.gpu_check import STEPS, engines, runtime
from benchmarks.gpu_check.setup import Found, Setup
from benchmarks.networks import DENOISER
from engine.errors import DiffEditError

ROOT = Path(app.__file__).parents[1]
ENOUGH = ("torch", "transformers", "diffusers", "rich", "scipy", "typer")


def required(name: str, seen: set[str]) -> Iterator[importlib.metadata.Distribution]:
    """A distribution and all that it requires without extras."""
    key = re.sub(r"[-_.]+", "-", name).lower()
    if key in seen:
        return
    seen.add(key)
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:  # for another platform
        return
    yield found
    for requirement in found.requires or ():
        if "extra ==" not in requirement:
            yield from required(re.split(r"[^\w.-]", requirement, maxsplit=1)[0], seen)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages that has these and what they require, and nothing else."""
    folder = tmp_path_factory.mktemp("site")
    seen: set[str] = set()
    for distribution in (one for name in ENOUGH for one in required(name, seen)):
        for top in {Path(str(file)).parts[0] for file in distribution.files or ()} - {".."}:
            target = Path(str(distribution.locate_file(top)))
            if not (folder / top).exists() and top != "__pycache__" and target.exists():
                (folder / top).symlink_to(target)
    assert not {"accelerate", "onnx", "matplotlib", "pytest", "fastapi"} & {
        path.name for path in folder.iterdir()
    }
    return folder


def alone(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m benchmarks` with the packages of `site` only."""
    code = f"import sys; sys.path += [{str(ROOT)!r}, {str(site)!r}]\n"
    code += "from benchmarks.app import main\nif __name__ == '__main__': main()"
    script = site.parent / f"{site.name}-main.py"
    script.write_text(code)
    return subprocess.run(
        [sys.executable, "-I", "-S", str(script), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", "HOME": str(site.parent)},
    )


def test_the_named_packages_are_enough_to_start(site: Path) -> None:
    done = alone(site, "gpu-check", "--help")
    assert done.returncode == 0, done.stderr
    assert "--rehearse" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_step_runs_with_the_named_packages(site: Path, tmp_path: Path) -> None:
    done = alone(site, "gpu-check", "--rehearse", "--out", str(tmp_path / "a"))
    assert done.returncode == 0, done.stderr
    results = {path.stem: schema.load(path)[0] for path in (tmp_path / "a").glob("*.json")}
    assert set(results) == set(STEPS)
    assert all(result.machine.commit for result in results.values())
    assert all("accelerate" not in result.machine.versions for result in results.values())
    reasons = {one.name: one.reason for result in results.values() for one in result.not_run}
    allowed = {"+ CUDA graphs": "no NVIDIA GPU", "tests marked gpu": "pytest is not installed"}
    allowed |= {"onnx": "onnx", "tensorrt": "is not installed", "tensorrt-rtx": "is not installed"}
    allowed |= {"server": "fastapi, multipart", "attention by cuDNN": "No viable backend"}
    allowed |= {"attention memory-efficient": "No viable backend"}
    for name, reason in reasons.items():
        assert name in allowed and allowed[name] in reason, (name, reason)
    for name in set(STEPS) - {"onnxruntime", "tensorrt", "tensorrt-rtx", "server", "tests"}:
        assert results[name].measurements, name
        assert all(check.met for check in results[name].checks), results[name].checks


@pytest.fixture
def setup(tiny: Path, tmp_path: Path) -> Setup:
    return Setup(tiny, None, tmp_path, "cpu", 4, (1, 2), 3, 2, 0.3, rehearse=True)


def test_without_a_gpu_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(DiffEditError, match="add --rehearse"):
        gpu_check.gpu_check(out=tmp_path)


def test_a_step_is_kept_and_the_next_command_continues(
    setup: Setup, capsys: pytest.CaptureFixture[str]
) -> None:
    path = setup.out / "cancel.json"
    gpu_check.run_step("cancel", setup, path)
    (result,) = schema.load(path)
    assert result.date and result.settings["rehearse"] and result.settings["step"] == "cancel"
    assert all(check.met for check in result.checks) and not result.not_run
    done = gpu_check.gpu_check(
        setup.model, step=("cancel",), out=setup.out, threshold=0.3, rehearse=True
    )
    assert done == [result]
    assert "cancel is finished" in capsys.readouterr().err


def test_a_step_that_fails_says_why(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(setup: Setup) -> Found:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setitem(STEPS, "graphs", fail)
    path = setup.out / "graphs.json"
    gpu_check.run_step("graphs", setup, path)
    (result,) = schema.load(path)
    assert result.not_run[0].reason == (
        "RuntimeError: CUDA error: an illegal memory access was encountered"
    )
    assert gpu_check.finished(path, setup)
    assert not gpu_check.finished(path, replace(setup, steps=5))
    assert not gpu_check.finished(setup.out / "none.json", setup)


def hang(setup: Setup) -> Found:
    """A step that never ends."""
    time.sleep(3600)
    raise AssertionError


def die(setup: Setup) -> Found:
    """A step whose process ends without output."""
    os._exit(7)


@pytest.mark.parametrize(
    ("step", "limit", "reason"),
    [
        (die, 540.0, "ended with 7"),
        (hang, 1.0, "took longer than 1 s"),
        (hang, 540.0, None),  # the command's own time is over: the next command runs it again
    ],
)
def test_a_step_ends_in_time(
    step: Any,
    limit: float,
    reason: str | None,
    setup: Setup,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fork = multiprocessing.get_context("fork")  # its processes know the steps of this test
    monkeypatch.setattr("multiprocessing.get_context", lambda kind: fork)
    monkeypatch.setitem(STEPS, "graphs", step)
    monkeypatch.setattr(gpu_check, "STEP_SECONDS", limit)
    path = setup.out / "graphs.json"
    seconds = limit if reason else 0.5
    assert gpu_check._run("graphs", setup, path, seconds) == (reason is not None)
    if reason:
        assert reason in schema.load(path)[0].not_run[0].reason
    else:
        assert not path.exists()


def test_the_guard_is_on_between_two_calls_of_one_stage() -> None:
    modes: list[str] = []
    guard = runtime.StageGuard(modes.append)
    guard.plan = [20, 1, 1, 1, 2, 2]
    for index in range(6):
        guard.after(DENOISER, index)
        guard.after("text", index)
    assert modes == ["default", "error", "error", "default", "error", "default"]
    assert guard.guarded == 3


def test_a_wait_inside_a_stage_is_a_missed_check(setup: Setup) -> None:
    """As PyTorch does: in the mode "error", an operation that waits raises."""

    def set_mode(mode: str) -> None:
        if mode == "error":
            raise RuntimeError("called a synchronizing CUDA operation")

    (check,) = runtime.syncs(setup, set_mode).checks
    assert not check.met and "called a synchronizing CUDA operation" in check.text


def test_the_tests_marked_gpu_need_no_other_files(setup: Setup) -> None:
    """Other files may import what is not installed on the machine with the GPU."""
    (check,) = engines.gpu_tests(setup).checks
    assert check.met and re.search(r"[1-9]\d* tests collected", check.text), check
