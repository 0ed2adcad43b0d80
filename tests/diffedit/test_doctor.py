"""The doctor: quick, readable by machines, and right about packages that are only a name."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from diffedit import doctor
from engine.backends.torch.kernels.build import NativeError
from tests.test_project import pins


def by_name(checks: list[doctor.Check]) -> dict[str, doctor.Check]:
    return {check.name: check for check in checks}


def test_the_report_of_this_environment() -> None:
    checks = doctor.report()
    named = by_name(checks)
    assert json.loads(json.dumps([asdict(check) for check in checks]))
    assert {check.state for check in checks} <= {"ok", "missing", "problem"}
    for name in ("python", *doctor.CORE, "cpu", "disk", "backend auto"):
        assert name in named
        assert named[name].what
    assert named["torch"].what.startswith(importlib.metadata.version("torch"))
    assert named["backend auto"].what.startswith("takes torch")
    assert all(check.fix for check in checks if check.state == "problem")


def test_kernels_for_cpus_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: True)
    for name, here in (("attention", True), ("convolution", False)):
        module = f"engine.backends.torch.kernels.{name}"
        monkeypatch.setattr(f"{module}.kernel", lambda: None)
        monkeypatch.setattr(f"{module}.usable", lambda here=here: here)
    (told,) = doctor._kernels()
    assert (told.state, told.what) == ("ok", "uses its own for attention")

    def refuse() -> None:
        raise NativeError("there is no C++ compiler (g++, or what CXX names).")

    monkeypatch.setattr("engine.backends.torch.kernels.convolution.kernel", refuse)
    (told,) = doctor._kernels()
    assert told.state == "missing" and "convolution stays PyTorch's" in told.what
    assert "no C++ compiler" in told.what and told.fix == "install g++"
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: False)
    assert doctor._kernels() == []


def test_tested_versions_are_the_constraints() -> None:
    assert {n: pins()[n.replace("_", "-")] for n in doctor.TESTED} == doctor.TESTED


def install(folder: Path, name: str, version: str, source: str) -> None:
    """A package that is really there, in a folder on the search path."""
    (folder / f"{name}.py").write_text(source)
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


@pytest.mark.parametrize(
    ("version", "source", "state", "words"),
    [
        ("11.4.0", "class Builder: pass", "ok", "11.4.0, builds engines"),
        ("10.2.0", "class Builder: pass", "problem", "older than 10.13"),
        ("11.4.0", "", "problem", "has no builder"),
        ("11.4.0", "raise OSError('libnvinfer.so.11: not found')", "problem", "libnvinfer"),
    ],
)
def test_tensorrt_is_more_than_a_name(
    version: str,
    source: str,
    state: str,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install(tmp_path, "tensorrt", version, source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    check = by_name(doctor.report())["tensorrt"]
    sys.modules.pop("tensorrt", None)
    assert check.state == state
    assert words in check.what
    assert bool(check.fix) == (state == "problem")


def test_two_onnxruntimes_are_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "onnxruntime_gpu-1.32.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.32.0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    check = by_name(doctor.report())["onnxruntime"]
    assert check.state == "problem"
    assert "overwrite each other" in check.what


def test_a_gpu_that_pytorch_does_not_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver's tool answers, and this PyTorch is a CPU build."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H200, 580.1, 9.0, 143771 MiB'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    import torch

    if torch.cuda.is_available():
        pytest.skip("this PyTorch sees a GPU")
    named = by_name(doctor.report())
    assert named["gpu"].state == "problem"
    assert "sees no CUDA device" in named["gpu"].what
    assert "CUDA build" in named["gpu"].fix
    assert named["tensorrt"].fix


def test_engines_that_cannot_be_read_are_a_problem(tmp_path: Path) -> None:
    check = by_name(doctor.report(tmp_path))["backend auto"]
    assert check.state == "problem"
    assert "holds no engines" in check.what
