"""What a build verifies, and when a network falls back to fp32."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.backends.onnxruntime import memory
from engine.manifest import Check
from engine.netspec import Precision
from engine.verification import verdict
from export import verify
from tests.export.builds import Change, Copy, Made, Only, Run, intact, stamps


@pytest.mark.slow
def test_what_overflows_fp16_falls_back_to_fp32(
    micro: Path, tmp_path: Path, run: Run, made: Made, change: Change, own: Copy, only: Only
) -> None:
    only("text", "vae_encode", "vae_decode")
    model = own(micro)
    change(model, "vae", "decoder.conv_in", 1e6)  # a norm follows, so fp32 does not mind
    out = tmp_path / "out"
    manifest, events = run(model, out, precision="fp16")
    precisions = {e.spec.name: e.spec.precision for e in manifest.entries}
    others = dict.fromkeys(("text", "vae_encode"), "fp16")
    assert precisions == others | {"vae_decode": "fp32"}
    note = next(e.notes for e in manifest.entries if e.spec.name == "vae_decode")[0]
    assert note == "vae_decode 16x16 is too imprecise in fp16 (torch: not finite); it is in fp32."
    assert note in [e.text for e in events]
    intact(manifest, out)
    assert (out / "vae_decode-16x16-fp32.onnx").exists()
    assert made(run(model, out, precision="fp16")[1]) == []


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_what_misses_the_tolerance_falls_back_too(
    backend: str, micro: Path, tmp_path: Path, run: Run, only: Only, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = verify.compare

    def strict(name: str, precision: Precision, *tensors: Any) -> Check:
        check = compare(name, precision, *tensors)
        if name == backend and precision == "fp16" and check.batch in (1, 4):
            return replace(check, status="too imprecise", reason="relative error 1.0e+00")
        return check

    only("text")
    monkeypatch.setattr("export.verify.compare", strict)
    manifest, events = run(micro, tmp_path / "out", precision="fp16")
    (entry,) = manifest.entries
    assert entry.spec.precision == "fp32"
    assert f"({backend}" in entry.notes[0]
    assert "relative error" in entry.notes[0]
    intact(manifest, tmp_path / "out")
    wrong = [e for e in events if e.step == "export" and "fp16" in e.text]
    assert len(wrong) == (backend == "onnxruntime")


@pytest.mark.parametrize(("precision", "worst"), [("fp32", 1e-3), ("fp16", 2e-2), ("bf16", 5e-2)])
def test_the_tolerance_is_relative_to_the_whole_answer(precision: Precision, worst: float) -> None:
    want = torch.full((2, 100), 10.0)
    close, far = want * (1 + 0.9 * worst), want * (1 + 1.1 * worst)
    check = verify.compare("x", precision, [close], [want])
    assert check.status == "passed"
    assert check.relative == pytest.approx(0.9 * worst, rel=1e-3)
    assert check.max_abs == pytest.approx(9 * worst, rel=1e-2)
    assert verify.compare("x", precision, [far], [want]).status == "too imprecise"
    assert verify.compare("x", precision, [close, far], [want, want]).status == "too imprecise"
    far[0, 0] = float("inf")
    assert verify.compare("x", precision, [far], [want]).reason == "not finite"


@pytest.mark.slow
def test_profiles_that_do_not_fit_into_memory_are_listed_as_not_run(
    micro: Path, tmp_path: Path, run: Run, only: Only, monkeypatch: pytest.MonkeyPatch
) -> None:
    only("unet")
    first, _ = run(micro, tmp_path / "first", batches=(1,), verify=False)
    session = memory.SESSION_SHARE * sum(file.bytes for file in first.entries[0].files)
    row = 4 * 4 * 2 * 64 * 64  # bytes: four arrays of fp32, 2 heads, 8 x 8 cells squared
    monkeypatch.setattr(
        "engine.backends.onnxruntime.memory.available", lambda: int((session + 2.5 * row) / 0.7)
    )
    manifest, _ = run(micro, tmp_path / "out", batches=(1, 2, 3), verify="all")
    checks = [c for c in manifest.entries[0].checks if c.backend == "onnxruntime"]
    assert [(c.batch, c.status) for c in checks] == [(1, "passed"), (2, "passed"), (3, "not run")]
    assert "memory" in checks[2].reason


def test_bf16_is_built_and_listed_as_not_verified(
    micro: Path, tmp_path: Path, run: Run, only: Only
) -> None:
    only("vae_encode")
    manifest, _ = run(micro, tmp_path / "out", precision="bf16", verify="all")
    (entry,) = manifest.entries
    assert entry.spec.precision == "bf16"
    by_torch, *others = entry.checks
    assert (by_torch.backend, by_torch.status) == ("torch", "passed")
    assert {c.status for c in others} == {"not run"}
    assert all("bf16" in c.reason and str(tmp_path) not in c.reason for c in others)


@pytest.mark.slow
def test_verification_can_be_made_up_for(
    micro: Path, tmp_path: Path, run: Run, made: Made, only: Only
) -> None:
    only("text", "vae_decode")
    out = tmp_path / "out"
    first, _ = run(micro, out, verify=False)
    assert [verdict(e) for e in first.entries] == ["not run"] * 2
    before = stamps(out)
    second, events = run(micro, out, verify="all")
    assert made(events) == []
    assert all(c.status == "passed" for e in second.entries for c in e.checks)
    assert all(len(e.checks) == 1 + len(e.spec.batch_sizes) for e in second.entries)
    assert {e.step for e in run(micro, out)[1]} == {"target", "kept"}
    assert stamps(out)["text-fp32.onnx"] == before["text-fp32.onnx"]
