"""Verification of profiles: one that cannot run is not one with wrong results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.backends.fake import CHANNELS, TEXT_WIDTH, TOKENS, FakeNetworks
from engine.checkpoint import Checkpoint
from engine.errors import EngineMismatch
from engine.manifest import Check, Entry, File, Manifest, ModelIdentity, Toolchain
from export.build import _require_same_model
from export.output_folder import save
from export.verify import _profile

LATENT = (CHANNELS, 4, 4)


def inputs(rows: int) -> list[Tensor]:
    return [torch.rand(rows, *LATENT), torch.rand(rows), torch.rand(rows, TOKENS, TEXT_WIDTH)]


def judged(networks: FakeNetworks, batch: int = 4) -> Check:
    spec = networks.find("unet", LATENT).spec
    rows = inputs(4)
    named = {t.name: x for t, x in zip(spec.inputs, rows, strict=True)}
    want = FakeNetworks().find("unet", LATENT)(named)
    return _profile(networks, "fake", spec, batch, rows, want)


def test_equal_outputs_pass_and_wrong_ones_are_too_imprecise() -> None:
    assert judged(FakeNetworks()).status == "passed"
    wrong = judged(FakeNetworks(fault=lambda net, batch, output: output * 1.01))
    assert wrong.status == "too imprecise" and wrong.relative == pytest.approx(0.01, rel=0.01)
    overflow = judged(FakeNetworks(fault=lambda net, batch, output: output / 0))
    assert (overflow.status, overflow.reason) == ("too imprecise", "not finite")


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no room"), MemoryError()])
def test_too_little_memory_is_no_wrong_answer(error: Exception) -> None:
    """Else the builder would fall back to fp32, which needs more memory still."""

    def fault(net: str, batch: Mapping[str, Tensor], output: Tensor) -> None:
        raise error

    row = judged(FakeNetworks(fault=fault))
    assert row.status == "not run" and "memory" in row.reason


def test_a_runtime_error_is_a_failure_and_not_a_precision() -> None:
    def fault(net: str, batch: Mapping[str, Tensor], output: Tensor) -> None:
        raise RuntimeError("a kernel is missing")

    row = judged(FakeNetworks(fault=fault))
    assert row.status == "failed" and "a kernel is missing" in row.reason


TOOLCHAIN = Toolchain("product", "1", "weights")


def test_a_stale_engine_goes_with_what_a_gpu_compiled_from_it(tmp_path: Path) -> None:
    spec = FakeNetworks().find("unet", LATENT).spec
    entry = Entry("tensorrt-rtx", spec, "key", (File("a.engine", "0" * 64, 1),), TOOLCHAIN)
    before = Manifest(None, (entry,))
    for name in ("a.engine", "a.engine.cache", "b.engine"):
        (tmp_path / name).write_bytes(b"x")
    save(tmp_path, before, Manifest(None))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.engine", "manifest.json"]


def test_a_fine_tune_does_not_replace_another_models_engines(tmp_path: Path, tiny: Path) -> None:
    spec = FakeNetworks().find("unet", LATENT).spec
    entry = Entry("onnx", spec, "key", (File("a.onnx", "0" * 64, 1),), TOOLCHAIN)

    def identity(source: str, unet: str) -> ModelIdentity:
        return ModelIdentity(source, "stable-diffusion", (), {"unet": unet, "vae": "2"})

    checkpoint, saved = Checkpoint.open(tiny), Manifest(identity("base", "1"), (entry,))
    with pytest.raises(EngineMismatch, match=r"base.*fine-tune"):
        _require_same_model(tmp_path, saved, identity("fine-tune", "3"), checkpoint)
    for allowed in (identity("moved", "1"), identity("base", "3")):
        _require_same_model(tmp_path, saved, allowed, checkpoint)
