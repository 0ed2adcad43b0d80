"""The PyTorch backend compiled for a CPU: its outputs, and one compilation per batch size."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from demo.picture import still_life
from diffedit import DiffEditPipeline, EditRequest
from engine.backends.torch.compile import CPU_BATCH_SIZES, need_compiler
from engine.backends.torch.kernels import attention, convolution
from engine.backends.torch.networks import TorchNetworks
from engine.checkpoint import Checkpoint
from engine.dtypes import TORCH_DTYPES
from engine.errors import DiffEditError
from engine.netspec import NetSpec
from tests.engine.compiled import only
from tests.engine.processor import needs_kernel

pytestmark = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="there is no C++ compiler"
)


@pytest.fixture(scope="module")
def networks(micro: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorchNetworks]:
    """The micro checkpoint in float32, compiled into a temporary folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
        compiled = TorchNetworks.open(
            Checkpoint.open(micro), device="cpu", dtype="fp32", compile=True
        )
        yield compiled
        compiled.close()


def inputs(spec: NetSpec, rows: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(rows)
    return {
        t.name: torch.rand((rows, *t.shape), generator=draw).mul(5).to(TORCH_DTYPES[t.dtype])
        for t in spec.inputs
    }


@pytest.mark.slow
def test_outputs_equal_those_of_eager_networks(networks: TorchNetworks, micro: Path) -> None:
    eager = TorchNetworks.open(Checkpoint.open(micro), device="cpu", dtype="fp32")
    assert networks.describe() == f"{eager.describe()}, compiled"
    counters.clear()
    with torch.inference_mode():
        for net, shape in (("unet", (4, 8, 8)), ("vae_encode", (3, 16, 16))):
            backend = networks.find(net, shape)
            assert backend.spec.batch_sizes == (CPU_BATCH_SIZES if net == "unet" else (1, 2, 4))
            batch = inputs(backend.spec, 1)
            output, expected = only(backend(batch)), only(eager.find(net, shape)(batch))
            assert (output - expected).norm() / expected.norm() < 1e-4
            before = counters["stats"]["unique_graphs"]
            assert torch.equal(only(backend(batch)), output)
            assert counters["stats"]["unique_graphs"] == before  # the second call compiles nothing
    assert counters["stats"]["unique_graphs"] >= 2  # the UNet, and half of the VAE
    assert counters["inductor"]["mkldnn_conv_weight_pack_matcher_count"] > 0  # frozen: packed once


@pytest.mark.slow
def test_an_edit_uses_only_the_compiled_batch_sizes(networks: TorchNetworks, micro: Path) -> None:
    request = EditRequest(
        still_life(16, 16), "a blue ball", "a red ball", preset="paper", num_inference_steps=4
    )
    with (
        DiffEditPipeline(Checkpoint.open(micro), networks, size=(16, 16)) as pipe,
        DiffEditPipeline.from_pretrained(
            micro, backend="torch", device="cpu", dtype="fp32", size=(16, 16)
        ) as eager,
    ):
        result, expected = pipe.submit(request).result(), eager.submit(request).result()
    assert result.stats.rows == expected.stats.rows
    assert result.stats.calls["unet"] >= result.stats.rows["unet"] / max(CPU_BATCH_SIZES)
    assert (result.latent_mask == expected.latent_mask).all()


@pytest.mark.slow
@needs_kernel
def test_the_cpu_kernels_are_part_of_the_compiled_code(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    for kernel in (attention, convolution):
        monkeypatch.setattr(kernel, "usable", lambda: True)
    checkpoint = Checkpoint.open(tiny)
    eager = TorchNetworks.open(checkpoint, device="cpu", dtype="bf16")
    compiled = TorchNetworks.open(checkpoint, device="cpu", dtype="bf16", compile=True)
    parts = {type(m).__name__ for m in compiled.modules["unet"].modules()}
    unet: Any = compiled.modules["unet"]
    parts |= {type(p).__name__ for p in unet.attn_processors.values()}
    assert {"WinogradConv2d", "KernelAttnProcessor"} <= parts
    batch = inputs(compiled.find("unet", (4, 16, 16)).spec, 2)
    with torch.inference_mode():
        output, expected = (
            only(n.find("unet", (4, 16, 16))(batch)).float() for n in (compiled, eager)
        )
    assert (output - expected).norm() / expected.norm() < 0.03
    compiled.close()


@pytest.mark.slow
def test_without_a_compiler_the_error_says_what_to_install() -> None:
    code = (
        "from engine.backends.torch.compile import need_compiler\n"
        "from engine.errors import DiffEditError\n"
        "try: need_compiler()\n"
        "except DiffEditError as error: print(error)\n"
    )
    environment = {**os.environ, "CXX": "/no/such/compiler"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, text=True, capture_output=True, check=True
    )
    assert "needs a C++ compiler" in done.stdout and "install g++" in done.stdout
    need_compiler()  # this machine has one


def test_the_compiler_is_checked_before_anything_is_compiled(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise DiffEditError("no compiler")

    monkeypatch.setattr("engine.backends.torch.compile.need_compiler", refuse)
    with pytest.raises(DiffEditError, match="no compiler"):
        TorchNetworks.open(Checkpoint.open(tiny), device="cpu", compile=True)
