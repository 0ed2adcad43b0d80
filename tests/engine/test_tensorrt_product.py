"""Opening TensorRT engines: which product is chosen, and the errors if none can be."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.backends.engine_folder import EngineFolder
from engine.backends.tensorrt import product as product_module
from engine.backends.tensorrt.machine import Machine, fitting
from engine.backends.tensorrt.networks import TensorRTNetworks
from engine.backends.tensorrt.product import choose_product, load_module
from engine.errors import EngineMismatch
from tests.engine.compiled import BUILT, BUILT_RTX, H200, RTX, complete, manifest

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


@NO_GPU
def test_without_a_gpu_the_error_names_other_backends(tmp_path: Path) -> None:
    manifest(tmp_path, complete(tmp_path, (64, 64), kind="tensorrt-rtx", **BUILT_RTX))
    with pytest.raises(EngineMismatch, match=r"needs an NVIDIA GPU for .*backend='torch'"):
        TensorRTNetworks.open(tmp_path)


def test_the_folder_is_checked_before_the_gpu(tmp_path: Path) -> None:
    with pytest.raises(EngineMismatch, match="has no engines"):
        TensorRTNetworks.open(tmp_path)
    manifest(tmp_path, complete(tmp_path, (64, 64)))
    with pytest.raises(EngineMismatch, match=r"but no tensorrt or tensorrt-rtx files"):
        TensorRTNetworks.open(tmp_path)


def test_a_missing_package_raises_an_error_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(EngineMismatch, match=r"package tensorrt cannot.*pip install -e '.\[gpu\]'"):
        load_module("tensorrt")


def test_an_old_package_raises_an_error_with_the_oldest_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Old:
        __version__ = "10.0.1"
        ICudaEngine = object

    monkeypatch.setitem(sys.modules, "tensorrt", Old)
    with pytest.raises(EngineMismatch, match=r"TensorRT 10\.0\.1 is too old; install 10\.13"):
        load_module("tensorrt")


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> dict[str, Machine]:
    """A machine with both products: product -> its facts. Deleting one uninstalls the product."""
    machines = {"tensorrt": H200, "tensorrt-rtx": replace(RTX, gpu="NVIDIA H200")}

    def load(product: str) -> str:
        if product not in machines:
            raise EngineMismatch(f"{product} is not installed")
        return product

    monkeypatch.setattr(product_module, "load_module", load)
    monkeypatch.setattr(product_module, "read_machine", lambda product, *_: machines[product])
    return machines


def both(folder: Path, **changes: Any) -> EngineFolder:
    made = complete(folder, (64, 64), kind="tensorrt", **{**BUILT, **changes})
    made += complete(folder, (64, 64), kind="tensorrt-rtx", **BUILT_RTX)
    return EngineFolder.open(manifest(folder, made), ["tensorrt", "tensorrt-rtx"])


def test_tensorrt_is_preferred(tmp_path: Path, machines: dict[str, Machine]) -> None:
    chosen, trt, machine = choose_product(both(tmp_path), torch.device("cuda:0"))
    assert (trt, machine) == ("tensorrt", H200)
    assert {e.format for e in chosen.entries} == {"tensorrt"}


def test_the_other_product_is_chosen_if_the_first_one_does_not_fit(
    tmp_path: Path, machines: dict[str, Machine]
) -> None:
    folder = both(tmp_path, version="9.9")
    assert choose_product(folder, torch.device("cuda:0"))[1] == "tensorrt-rtx"
    del machines["tensorrt"]
    assert choose_product(folder, torch.device("cuda:0"))[1] == "tensorrt-rtx"


def test_if_nothing_fits_the_error_is_that_of_the_preferred_product(
    tmp_path: Path, machines: dict[str, Machine]
) -> None:
    folder = both(tmp_path, version="9.9")
    del machines["tensorrt-rtx"]
    with pytest.raises(EngineMismatch) as caught:
        choose_product(folder, torch.device("cuda:0"))
    assert str(caught.value) == (
        f"{tmp_path}/text-5.tensorrt was built for TensorRT 9.9, and this machine has TensorRT "
        f"10.13.3.9; rebuild with: diffedit-trt build MODEL --out {tmp_path} --target tensorrt"
    )


def test_sizes_built_for_another_machine_are_left_out(tmp_path: Path) -> None:
    made = complete(tmp_path, (64, 64), kind="tensorrt", **BUILT)
    made += complete(tmp_path, (64, 96), kind="tensorrt", **{**BUILT, "gpu": "NVIDIA A100"})[1:]
    folder = EngineFolder.open(manifest(tmp_path, made), ["tensorrt"])
    assert folder.sizes == ((64, 64), (64, 96))
    assert fitting(folder, H200).sizes == ((64, 64),)
