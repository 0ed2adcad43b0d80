"""`diffedit.doctor`: the report of this environment, and of environments made up for a test."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from diffedit import doctor
from diffedit.doctor import machine, packages
from diffedit.doctor.check import with_tested_version
from engine.backends.torch import networks
from engine.backends.torch.kernels.build import NativeError
from engine.manifest import Check, Manifest, Status
from tests.engine.compiled import entry, spec
from tests.test_project import pins


def by_name(checks: list[doctor.Check]) -> dict[str, doctor.Check]:
    return {check.name: check for check in checks}


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same report on every machine, with or without a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("PATH", "")


def test_the_report_of_this_environment() -> None:
    checks = doctor.report()
    named = by_name(checks)
    assert json.loads(json.dumps([asdict(check) for check in checks]))
    assert {check.state for check in checks} <= {"ok", "missing", "problem"}
    for name in ("python", *doctor.CORE_PACKAGES, "cpu", "disk", "backend auto"):
        assert named[name].what
    assert named["torch"].what.startswith(importlib.metadata.version("torch"))
    assert named["gpu"].what == "no NVIDIA GPU; edits run on the CPU"
    assert named["backend auto"].what == "uses torch: no engines folder was given"
    assert all(check.fix for check in checks if check.state == "problem")


def test_tested_versions_are_those_of_constraints_txt() -> None:
    expected = {name: pins()[name.replace("_", "-")] for name in doctor.TESTED_VERSIONS}
    assert expected == doctor.TESTED_VERSIONS


def test_another_version_is_shown_with_the_tested_one() -> None:
    tested = doctor.TESTED_VERSIONS["torch"]
    assert with_tested_version("torch", tested) == tested
    assert with_tested_version("torch", f"{tested}+cpu") == f"{tested}+cpu"
    assert with_tested_version("torch", "1.0") == f"1.0 (tested with {tested})"
    assert with_tested_version("numpy", "1.0") == "1.0"


class FakeKernel(NamedTuple):
    """A kernel module: `kernel` compiles it, `usable` says whether networks use it."""

    kernel: Callable[[], None]
    usable: Callable[[], bool]


def refuse() -> None:
    raise NativeError("there is no C++ compiler (g++, or what CXX names).")


@pytest.mark.parametrize(
    ("kernels", "state", "what"),
    [
        (
            {
                "attention": FakeKernel(lambda: None, lambda: True),
                "convolution": FakeKernel(lambda: None, lambda: False),
            },
            "ok",
            "compiled; used for attention",
        ),
        (
            {"attention": FakeKernel(lambda: None, lambda: False)},
            "ok",
            "PyTorch's are faster with AMX",
        ),
        (
            {"convolution": FakeKernel(refuse, lambda: True)},
            "missing",
            "convolution uses PyTorch's kernel, which is slower: there is no C++ compiler",
        ),
    ],
)
def test_cpu_kernels_are_reported(
    kernels: dict[str, FakeKernel], state: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(networks, "KERNELS", kernels)
    (check,) = machine.check_cpu_kernels()
    assert check.state == state
    assert check.what.startswith(what)
    assert check.fix == ("install g++" if state == "missing" else "")


def test_cpus_without_bf16_need_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: False)
    assert machine.check_cpu_kernels() == []


def install(folder: Path, name: str, version: str, source: str) -> None:
    """Write a package with metadata into a folder on the import path."""
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
def test_tensorrt_needs_its_libraries_and_a_recent_version(
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


@pytest.mark.parametrize("has_gpu", [False, True])
def test_a_missing_tensorrt_has_a_fix_only_with_a_gpu(
    has_gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "installed_version", lambda name: None)
    (check,) = packages.check_tensorrt(has_gpu)
    assert check.state == "missing"
    assert bool(check.fix) == has_gpu


def test_two_onnxruntime_packages_are_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("onnxruntime", "onnxruntime_gpu"):
        install(tmp_path, name, "1.32.0", "")
    monkeypatch.syspath_prepend(tmp_path)
    check = by_name(doctor.report())["onnxruntime"]
    assert check.state == "problem"
    assert "overwrite each other" in check.what


def test_a_gpu_that_pytorch_does_not_find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The NVIDIA driver is installed, and PyTorch is a CPU build."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H200, 580.1, 9.0, 143771 MiB'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    named = by_name(doctor.report())
    assert named["gpu"].state == "problem"
    assert "NVIDIA H200" in named["gpu"].what
    assert "finds no CUDA device" in named["gpu"].what
    assert "CUDA build" in named["gpu"].fix


def test_engines_that_cannot_be_read_are_a_problem(tmp_path: Path) -> None:
    check = by_name(doctor.report(tmp_path))["backend auto"]
    assert check.state == "problem"
    assert "has no engines" in check.what


@pytest.mark.parametrize(
    ("statuses", "state", "what"),
    [
        (("passed", "passed"), "ok", "2 of 2 profiles are verified"),
        (("passed", "not run"), "ok", "1 of 2 profiles are verified; the others not, because why"),
        (
            ("passed", "failed"),
            "problem",
            "1 of 2 profiles are verified; onnxruntime, batch 1: why",
        ),
    ],
)
def test_the_verification_of_engines_is_reported(
    statuses: tuple[Status, ...], state: str, what: str, tmp_path: Path
) -> None:
    checks = tuple(
        Check("onnxruntime", batch, status, reason="" if status == "passed" else "why")
        for batch, status in enumerate(statuses)
    )
    made = entry(tmp_path, spec("text"))
    Manifest(None, (replace(made, checks=checks),)).save(tmp_path)
    found = by_name(doctor.report(tmp_path))["verification"]
    assert (found.state, found.what) == (state, what)
