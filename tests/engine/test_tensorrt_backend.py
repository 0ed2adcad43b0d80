"""Opening TensorRT engines: which product is taken, and what is refused, told in one sentence."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.backends.engine_folder import EngineFolder
from engine.backends.tensorrt import networks as tensorrt_networks
from engine.backends.tensorrt.networks import (
    TensorRTNetworks,
    choose_product,
    cuda_device,
    load_module,
)
from engine.backends.tensorrt.plan import Host
from engine.errors import EngineMismatch
from tests.engine.compiled import BUILT, BUILT_RTX, H200, RTX, complete, manifest

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


@NO_GPU
def test_without_a_gpu_one_sentence(tmp_path: Path) -> None:
    manifest(tmp_path, complete(tmp_path, (64, 64), kind="tensorrt-rtx", **BUILT_RTX))
    with pytest.raises(EngineMismatch, match=r"need an NVIDIA GPU, and .*backend='torch' here"):
        TensorRTNetworks.open(tmp_path)


def test_the_folder_is_looked_at_first(tmp_path: Path) -> None:
    with pytest.raises(EngineMismatch, match="has no engines"):
        TensorRTNetworks.open(tmp_path)
    manifest(tmp_path, complete(tmp_path, (64, 64)))
    with pytest.raises(EngineMismatch, match=r"but no tensorrt or tensorrt-rtx files"):
        TensorRTNetworks.open(tmp_path)


def test_another_device_is_refused() -> None:
    with pytest.raises(EngineMismatch, match="NVIDIA GPUs only, not on cpu"):
        cuda_device("cpu")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(EngineMismatch, match=r"package tensorrt cannot.*diffedit-trt\[gpu\]"):
        load_module("tensorrt")


def test_an_old_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        __version__ = "10.0.1"
        ICudaEngine = object

    monkeypatch.setitem(sys.modules, "tensorrt", Old)
    with pytest.raises(EngineMismatch, match=r"TensorRT 10\.0\.1 is too old; install 10\.13"):
        load_module("tensorrt")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, Host]:
    """A machine with both products, as far as choosing between them can tell."""
    hosts = {"tensorrt": H200, "tensorrt-rtx": replace(RTX, gpu="NVIDIA H200")}

    def load(product: str) -> str:
        if product not in hosts:
            raise EngineMismatch(f"{product} is not installed")
        return product

    monkeypatch.setattr(tensorrt_networks, "load_module", load)
    monkeypatch.setattr(tensorrt_networks, "read_host", lambda product, trt, device: hosts[product])
    return hosts


def both(folder: Path, **changes: Any) -> EngineFolder:
    made = complete(folder, (64, 64), kind="tensorrt", **{**BUILT, **changes})
    made += complete(folder, (64, 64), kind="tensorrt-rtx", **BUILT_RTX)
    return EngineFolder.open(manifest(folder, made), ["tensorrt", "tensorrt-rtx"])


def test_tensorrt_is_preferred(tmp_path: Path, machine: dict[str, Host]) -> None:
    chosen, trt, host = choose_product(both(tmp_path), torch.device("cuda:0"))
    assert (trt, host) == ("tensorrt", H200)
    assert {e.format for e in chosen.entries} == {"tensorrt"}


def test_the_other_product_steps_in(tmp_path: Path, machine: dict[str, Host]) -> None:
    folder = both(tmp_path, version="9.9")
    assert choose_product(folder, torch.device("cuda:0"))[1] == "tensorrt-rtx"
    del machine["tensorrt"]
    assert choose_product(folder, torch.device("cuda:0"))[1] == "tensorrt-rtx"


def test_nothing_fits_and_the_first_reason_is_told(
    tmp_path: Path, machine: dict[str, Host]
) -> None:
    folder = both(tmp_path, version="9.9")
    del machine["tensorrt-rtx"]
    with pytest.raises(EngineMismatch) as seen:
        choose_product(folder, torch.device("cuda:0"))
    assert str(seen.value) == (
        f"{tmp_path}/text-5.tensorrt was built for TensorRT 9.9, and here is TensorRT 10.13.3.9; "
        f"rebuild with: diffedit-trt build MODEL --out {tmp_path} --target tensorrt"
    )


def test_sizes_built_elsewhere_are_not_offered(tmp_path: Path) -> None:
    made = complete(tmp_path, (64, 64), kind="tensorrt", **BUILT)
    made += complete(tmp_path, (64, 96), kind="tensorrt", **{**BUILT, "gpu": "NVIDIA A100"})[1:]
    folder = EngineFolder.open(manifest(tmp_path, made), ["tensorrt"])
    assert folder.sizes == ((64, 64), (64, 96))
    assert tensorrt_networks._fitting(folder, H200).sizes == ((64, 64),)
