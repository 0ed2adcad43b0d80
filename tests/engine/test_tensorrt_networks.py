"""Loading and running the engines of a folder, on substitutes for TensorRT and `torch.cuda`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from engine.backends.engine_folder import EngineFolder
from engine.backends.tensorrt.networks import TensorRTNetworks
from engine.errors import EngineMismatch
from engine.netspec import TensorSpec
from tests.engine import fake_tensorrt
from tests.engine.compiled import BUILT, H200, TOKENS, WIDTH, entry, manifest, spec
from tests.engine.fake_cuda import FakeCuda, aligned
from tests.engine.fake_tensorrt import Engine

CPU = torch.device("cpu")
TEXT = spec("text")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    fake.install(monkeypatch)
    monkeypatch.setattr(torch, "empty", aligned)
    return fake


def networks_of(folder: Path, engine: Engine | None, **changes: Any) -> TensorRTNetworks:
    """Return the networks of a folder with one text encoder, whose runtime loads `engine`."""
    made = entry(folder, TEXT, kind="tensorrt", **{**BUILT, **changes})
    opened = EngineFolder.open(manifest(folder, [made]), ["tensorrt"])
    return TensorRTNetworks(fake_tensorrt.module(engine), opened, H200, CPU, True)


def text_engine() -> Engine:
    return Engine(TEXT, (TensorSpec("embedding", (TOKENS, WIDTH)),))


def test_an_engine_is_loaded_once_and_has_a_context_per_batch_size(
    cuda: FakeCuda, tmp_path: Path
) -> None:
    engine = text_engine()
    networks = networks_of(tmp_path, engine)
    assert networks.describe() == "TensorRT 10.13.3.9 on NVIDIA H200, fp32"
    backend = networks.find("text", (TOKENS,))
    assert networks.find("text", (TOKENS,)) is backend
    for size in (1, 4, 1):
        batch = {"input_ids": aligned((size, TOKENS), torch.int64)}
        assert backend(batch)[0].shape == (size, TOKENS, WIDTH)
    selected = [context.calls[0] for context in engine.contexts]
    assert selected == [("set_optimization_profile_async", index, 7) for index in (0, 2)]
    assert engine.contexts[1].calls[-2][0] == "set_device_memory"
    assert engine.contexts[1].calls[-2][2] == 4096  # the largest profile, in whole blocks
    networks.close()
    assert cuda.log[-2:] == ["synchronize", "empty_cache of gpu 0"]
    assert networks._resources.arena.generation == 2, "its memory was freed"


def test_a_batch_size_without_a_profile_is_an_error(cuda: FakeCuda, tmp_path: Path) -> None:
    backend = networks_of(tmp_path, text_engine()).find("text", (TOKENS,))
    with pytest.raises(ValueError, match="text runs batches of"):
        backend({"input_ids": aligned((3, TOKENS), torch.int64)})


def test_an_engine_that_cannot_be_loaded_is_an_error_with_the_command_that_rebuilds_it(
    cuda: FakeCuda, tmp_path: Path
) -> None:
    with pytest.raises(EngineMismatch) as caught:
        networks_of(tmp_path, None).find("text", (TOKENS,))
    assert str(caught.value) == (
        f"TensorRT failed: {tmp_path}/text-5.tensorrt cannot be loaded (the plan is damaged); "
        f"delete the file and run: diffedit-trt build MODEL --out {tmp_path} --target tensorrt."
    )


def test_an_engine_of_another_version_is_not_deserialized(cuda: FakeCuda, tmp_path: Path) -> None:
    with pytest.raises(EngineMismatch, match=r"was built for TensorRT 9\.9, and this machine has"):
        networks_of(tmp_path, None, version="9.9").find("text", (TOKENS,))


def test_a_changed_engine_is_not_deserialized(cuda: FakeCuda, tmp_path: Path) -> None:
    networks = networks_of(tmp_path, text_engine())
    (tmp_path / "text-5.tensorrt").write_bytes(b"modified")
    with pytest.raises(EngineMismatch, match="was changed since it was built"):
        networks.find("text", (TOKENS,))
