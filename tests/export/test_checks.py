"""The profiles that a build verifies; one that could not run says nothing about precision."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.backends.onnxruntime import memory
from engine.backends.onnxruntime.networks import OnnxBackend
from engine.errors import EngineMismatch
from engine.manifest import Check, Entry, File, Format, Manifest, Toolchain
from engine.products import PRODUCTS, Product
from engine.verification import verdict
from export import build_jobs, checks
from export.build import BuildOptions, Event
from export.checks import BY_DEFAULT, BY_REQUEST, NO_MEMORY, NOT_HERE, Verify, plan
from export.torch_reference import TorchReference
from export.verify import affordable
from tests.engine.compiled import spec

Run = Callable[..., tuple[Manifest, list[Event]]]
Made = Callable[[list[Event]], list[tuple[str, str]]]
Only = Callable[..., None]
TORCH = Check("torch", 1, "passed", relative=1e-6)


def entry(*given: Check, kind: Format = "onnx") -> Entry:
    files = (File("a", "0", 1),)
    toolchain = Toolchain(kind, "1", "w")
    return Entry(kind, spec("unet"), "key", files, toolchain, checks=(TORCH, *given))


def check(batch: int, reason: str = "", backend: str = "onnxruntime") -> Check:
    return Check(backend, batch, "not run" if reason else "passed", reason=reason)


def planned(given: Entry, verify: Verify = "default") -> tuple[tuple[int, ...], list[str]]:
    """The batch sizes to run, and the reasons of the checks that are listed as not run."""
    found = plan(given, verify)
    assert found.entry.checks[0] == TORCH
    return found.run, [c.reason for c in found.entry.own_checks if c.status == "not run"]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_has_gpu", lambda: True)
    monkeypatch.setattr(checks, "distribution", lambda name: None)


def test_on_a_cpu_the_smallest_profile_is_verified_by_default() -> None:
    assert planned(entry()) == ((1,), [BY_DEFAULT] * 2)
    assert planned(entry(), "all") == ((1, 2, 4), [])
    assert planned(entry(), "none") == ((), [BY_REQUEST] * 3)


@pytest.mark.usefixtures("gpu")
def test_on_a_gpu_every_profile_is_verified_by_default() -> None:
    assert planned(entry()) == ((1, 2, 4), [])
    assert planned(entry(check(1), check(2, BY_DEFAULT), check(4, BY_DEFAULT))) == ((2, 4), [])


def test_a_cpu_runtime_on_a_gpu_machine_is_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime without CUDA: its memory and its time are those of the CPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(memory, "available", lambda: 1)
    assert planned(entry()) == ((1,), [BY_DEFAULT] * 2)
    assert affordable(entry(), (1, 2, 4)) == 0  # not even one row


def test_a_finished_verification_is_not_repeated() -> None:
    done = entry(check(1), check(2, BY_DEFAULT), check(4, BY_DEFAULT))
    assert plan(done, "default") == checks.Plan((), done)
    assert plan(done, "none") == checks.Plan((), done)
    assert planned(done, "all")[0] == (2, 4)


def test_what_was_not_run_is_tried_again_only_if_its_reason_may_no_longer_hold() -> None:
    failed = Check("onnxruntime", 4, "failed", reason="no kernel")
    given = entry(check(1, NOT_HERE + "ONNX Runtime is not installed"), check(2, NO_MEMORY), failed)
    assert planned(given, "all") == ((1, 2), [])
    assert plan(given, "all").entry.own_checks == (failed,)


def test_engines_without_their_gpu_are_not_run_because_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checks, "_has_gpu", lambda: False)
    monkeypatch.setattr(Product, "installed", True)
    run, reasons = planned(entry(kind="tensorrt"), "all")
    assert (run, reasons) == ((), [NOT_HERE + "there is no NVIDIA GPU"] * 3)


def test_engines_without_their_runtime_are_not_run_because_of_it() -> None:
    assert not PRODUCTS["tensorrt"].installed
    run, reasons = planned(entry(kind="tensorrt"), "all")
    assert (run, reasons) == ((), [NOT_HERE + "TensorRT is not installed"] * 3)


def test_profiles_of_an_earlier_build_are_forgotten() -> None:
    found = plan(entry(check(1), check(8)), "default").entry
    assert [c.batch for c in found.own_checks] == [1, 2, 4]


@pytest.mark.parametrize("given", ["some", None, 1])
def test_an_unknown_verification_is_refused(given: Any) -> None:
    with pytest.raises(ValueError, match="but must be default, all or none"):
        BuildOptions(verify=given)


@pytest.mark.parametrize(("given", "means"), [(True, "default"), (False, "none"), ("all", "all")])
def test_the_old_words_still_work(given: Any, means: str) -> None:
    assert BuildOptions(verify=given).verification == means


def fail_to_run(error: Exception) -> Callable[[OnnxBackend, Any], None]:
    def run(self: OnnxBackend, binding: Any) -> None:
        raise error

    return run


@pytest.fixture(scope="module")
def unverified(micro: Path, tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """The text encoder in fp16, which nothing has run yet. Read only."""
    out = tmp_path_factory.mktemp("unverified") / "out"
    every = build_jobs.build_jobs

    def text_alone(*arguments: Any) -> tuple[build_jobs.BuildJob, ...]:
        return tuple(job for job in every(*arguments) if job.spec.name == "text")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("export.build.build_jobs", text_alone)
        run(micro, out, precision="fp16", verify=False)
    return out


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (RuntimeError("no kernel image is available\nand more"), "failed", "no kernel image"),
        (EngineMismatch("it was built for another GPU"), "not run", "another GPU"),
        (torch.OutOfMemoryError("full"), "not run", "memory"),
    ],
)
def test_a_runtime_error_builds_nothing_anew(
    error: Exception,
    status: str,
    reason: str,
    micro: Path,
    unverified: Path,
    tmp_path: Path,
    run: Run,
    made: Made,
    only: Only,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    only("text")
    monkeypatch.setattr(OnnxBackend, "_run", fail_to_run(error))
    out = Path(shutil.copytree(unverified, tmp_path / "out"))
    manifest, events = run(micro, out, precision="fp16")
    (built,) = manifest.entries
    assert built.spec.precision == "fp16"
    assert made(events) == []
    assert built.own_checks[0].status == status
    assert reason in built.own_checks[0].reason
    assert "and more" not in built.own_checks[0].reason
    assert made(run(micro, out, precision="fp16")[1]) == []


def test_a_reference_that_does_not_fit_into_memory_keeps_what_was_built(
    micro: Path, tmp_path: Path, run: Run, made: Made, only: Only, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = TorchReference.outputs

    def full(self: TorchReference, rows: int) -> Sequence[Tensor]:
        if rows > 1:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        return outputs(self, rows)

    only("text")
    monkeypatch.setattr(TorchReference, "outputs", full)
    manifest, events = run(micro, tmp_path / "out", verify="all")
    (built,) = manifest.entries
    assert [c.status for c in built.own_checks] == ["not run"] * 3
    assert built.own_checks[0].reason == NO_MEMORY
    assert any("not verified, because" in event.text for event in events)
    assert verdict(built) == "not run"
    monkeypatch.setattr(TorchReference, "outputs", outputs)  # other programs have ended
    manifest, events = run(micro, tmp_path / "out", verify="all")
    assert [c.status for c in manifest.entries[0].own_checks] == ["passed"] * 3
    assert made(events) == []
