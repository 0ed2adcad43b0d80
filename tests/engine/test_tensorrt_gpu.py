"""The TensorRT backend on a GPU: every profile equals PyTorch, and calls are ordered with it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.backends.tensorrt.networks import TensorRTNetworks
from engine.backends.torch.networks import TorchNetworks
from engine.checkpoint import Checkpoint
from engine.errors import EngineMismatch
from engine.netspec import NetSpec
from export.build import build
from tests.engine.compiled import only

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def engines(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint as fp32 engines of the product that this machine can build and run."""
    folder = tmp_path_factory.mktemp("trt") / "engines"
    made = build(
        str(tiny), folder, sizes=[(64, 64)], precision="fp32", batches=(1, 2, 4), verify=False
    )
    if {e.format for e in made.entries} == {"onnx"}:
        pytest.skip("neither tensorrt nor tensorrt_rtx can build here")
    return folder


def on_gpu(net: NetSpec, size: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    batch = {}
    for tensor in net.inputs:
        shape = (size, *tensor.shape)
        made = (
            torch.randint(0, 300, shape, generator=generator)
            if tensor.dtype == "int64"
            else torch.randn(shape, generator=generator)
        )
        batch[tensor.name] = made.cuda()
    return batch


KINDS = [
    ("text", (77,)),
    ("vae_encode", (3, 64, 64)),
    ("vae_decode", (4, 16, 16)),
    ("unet", (4, 16, 16)),
]


def test_every_profile_equals_torch_with_and_without_graphs(engines: Path, tiny: Path) -> None:
    """All networks share one arena, which grows after the first graphs were captured."""
    plain = TorchNetworks.open(Checkpoint.open(tiny), device="cpu", dtype="fp32")
    graph, eager = (TensorRTNetworks.open(engines, cuda_graphs=g) for g in (True, False))
    batches: dict[tuple[str, int], dict[str, Tensor]] = {}
    for _ in range(4):
        for kind in KINDS:
            backend, other = graph.find(*kind), eager.find(*kind)
            for size in backend.spec.batch_sizes:
                batch = batches.setdefault((kind[0], size), on_gpu(backend.spec, size))
                got = only(backend(batch)).clone()
                assert torch.equal(got, only(other(batch)))
                want = only(plain.find(*kind)({n: t.cpu() for n, t in batch.items()}))
                assert float((got.cpu() - want).norm() / want.norm()) < 1e-3
    captured = [known.graph for known in graph._resources.graphs._recorded.values()]
    assert len(captured) == 4 * 3
    assert all(captured)
    graph.close()
    eager.close()


def test_calls_are_ordered_with_torch_without_waiting(engines: Path) -> None:
    """Inputs are written just before a call and outputs read just after it, on two streams."""
    networks = TensorRTNetworks.open(engines)
    backend = networks.find(*KINDS[3])
    batch = on_gpu(backend.spec, 4)
    wanted = {}
    for seed in range(8):
        for name, tensor in on_gpu(backend.spec, 4, seed).items():
            batch[name].copy_(tensor)
        torch.cuda.synchronize()
        wanted[seed] = only(backend(batch)).clone()
        torch.cuda.synchronize()
    sources = {seed: on_gpu(backend.spec, 4, seed) for seed in wanted}
    for stream in (torch.cuda.default_stream(), torch.cuda.Stream()):
        with torch.cuda.stream(stream):
            stream.wait_stream(torch.cuda.default_stream())
            got = {}
            for seed, source in sources.items():
                for name, tensor in source.items():
                    batch[name].copy_(tensor, non_blocking=True)
                got[seed] = only(backend(batch)).clone()
        stream.synchronize()
        assert all(torch.equal(got[seed], wanted[seed]) for seed in wanted)
    networks.close()


def test_a_pinned_engine_runs_its_profile(engines: Path) -> None:
    networks = TensorRTNetworks.open(engines, pin_batch_size=2)
    free = TensorRTNetworks.open(engines)
    backend = networks.find(*KINDS[3])
    assert backend.spec.batch_sizes == (2,)
    batch = on_gpu(backend.spec, 2)
    assert torch.equal(only(backend(batch)), only(free.find(*KINDS[3])(batch)))
    with pytest.raises(ValueError, match="batches of"):
        backend(on_gpu(backend.spec, 1))


def test_a_changed_engine_is_not_deserialized(engines: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(engines, copy)
    networks = TensorRTNetworks.open(copy)
    file = copy / networks.folder.entry(*KINDS[0]).files[0].name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(EngineMismatch, match="was changed since it was built"):
        networks.find(*KINDS[0])
