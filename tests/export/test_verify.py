"""How profiles are judged: what cannot run is not what runs wrongly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.backends.fake import CHANNELS, TOKENS, WIDTH, FakeNetworks
from engine.errors import EngineMismatch
from engine.manifest import Entry, File, Manifest
from export.build import _require_same_model
from export.output_folder import save
from export.verify import _profile

LATENT = (CHANNELS, 4, 4)


def inputs(rows: int) -> list[Tensor]:
    return [torch.rand(rows, *LATENT), torch.rand(rows), torch.rand(rows, TOKENS, WIDTH)]


def judged(networks: FakeNetworks, batch: int = 4) -> dict[str, object]:
    spec = networks.find("unet", LATENT).spec
    rows = inputs(4)
    named = {t.name: x for t, x in zip(spec.inputs, rows, strict=True)}
    want = FakeNetworks().find("unet", LATENT)(named)
    return _profile(networks, "fake", spec, batch, rows, want)


def test_an_equal_answer_passes_and_a_strayed_one_fails() -> None:
    assert judged(FakeNetworks())["ok"] is True
    strayed = judged(FakeNetworks(fault=lambda net, batch, output: output * 1.01))
    assert strayed["ok"] is False and strayed["relative"] == pytest.approx(0.01, rel=0.01)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no room"), MemoryError()])
def test_too_little_memory_is_no_wrong_answer(error: Exception) -> None:
    """Else the builder would fall back to fp32, which needs more memory still."""

    def fault(net: str, batch: Mapping[str, Tensor], output: Tensor) -> None:
        raise error

    row = judged(FakeNetworks(fault=fault))
    assert row["ok"] is None and "memory" in str(row["reason"])


def test_any_other_failure_is_a_failure() -> None:
    def fault(net: str, batch: Mapping[str, Tensor], output: Tensor) -> None:
        raise RuntimeError("a kernel is missing")

    row = judged(FakeNetworks(fault=fault))
    assert row["ok"] is False and "a kernel is missing" in str(row["reason"])


def test_a_stale_engine_goes_with_what_a_gpu_compiled_from_it(tmp_path: Path) -> None:
    spec = FakeNetworks().find("unet", LATENT).spec
    entry = Entry("tensorrt-rtx", spec, "key", (File("a.engine", "0" * 64, 1),), {})
    before = Manifest({}, (entry,))
    for name in ("a.engine", "a.engine.cache", "b.engine"):
        (tmp_path / name).write_bytes(b"x")
    save(tmp_path, before, Manifest({}))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.engine", "manifest.json"]


def test_a_fine_tune_does_not_replace_another_models_engines(tmp_path: Path) -> None:
    spec = FakeNetworks().find("unet", LATENT).spec
    entry = Entry("onnx", spec, "key", (File("a.onnx", "0" * 64, 1),), {})
    saved = Manifest({"source": "base", "digests": {"unet": "1", "vae": "2"}}, (entry,))
    with pytest.raises(EngineMismatch, match=r"base.*fine-tune"):
        _require_same_model(
            tmp_path, saved, {"source": "fine-tune", "digests": {"unet": "3", "vae": "2"}}
        )
    moved = {"source": "moved", "digests": {"unet": "1", "vae": "2"}}
    _require_same_model(tmp_path, saved, moved)
    retrained = {"source": "base", "digests": {"unet": "3", "vae": "2"}}
    _require_same_model(tmp_path, saved, retrained)
