"""Tests of the protocols `engine.backends.Backend` and `Networks` for every backend.

Each network of each backend runs at every batch size. A tolerance is the relative error of a whole
output, ||output - reference|| / ||reference||. It is wider than for a trained model, since the
weights are random.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.backends import Backend, Networks
from engine.backends.fake import FakeNetworks
from engine.backends.onnxruntime.networks import OnnxNetworks
from engine.backends.tensorrt.networks import TensorRTNetworks
from engine.backends.torch.networks import TorchNetworks
from engine.checkpoint import Checkpoint
from engine.errors import EngineMismatch
from engine.models.stable_diffusion import NETWORKS
from engine.netspec import NetSpec, Precision

SIZE = (64, 96)
SHAPES: dict[str, tuple[int, ...]] = {
    "text": (77,),
    "vae_encode": (3, *SIZE),
    "vae_decode": (4, 16, 24),
    "unet": (4, 16, 24),
}
FAKE_SHAPES = {**SHAPES, "unet": (4, 8, 12), "vae_decode": (4, 8, 12)}


@dataclass(frozen=True)
class Case:
    """One backend under test.

    Attributes:
        open: makes it; takes `pin_batch_size`.
        shapes: what one row of each network has.
        alone: how far a row in a batch may be from the same row alone.
        torch: how far outputs may be from torch in fp32; None where they are not meant to be near.
    """

    open: Callable[..., Networks]
    shapes: dict[str, tuple[int, ...]]
    alone: float
    torch: float | None


def engines(request: pytest.FixtureRequest, precision: Precision) -> Path:
    """Engines for TensorRT, built by the test on a machine with a GPU."""
    from export.build import build

    folder: Path = request.getfixturevalue("tmp_path_factory").mktemp("engines") / precision
    tiny = str(request.getfixturevalue("tiny"))
    made = build(tiny, folder, sizes=[SIZE], precision=precision, batches=(1, 2, 4), verify=False)
    if {entry.format for entry in made.entries} == {"onnx"}:
        pytest.skip("neither tensorrt nor tensorrt_rtx can build here")
    return folder


def case(name: str, request: pytest.FixtureRequest) -> Case:
    """The backend of that name. Fixtures are asked for by name, so that only its own are made."""
    backend, _, precision = name.partition("-")
    if backend == "fake":
        return Case(FakeNetworks, FAKE_SHAPES, alone=1e-6, torch=None)
    if backend == "torch":
        checkpoint = Checkpoint.open(request.getfixturevalue("tiny"))

        def open_torch(**options: Any) -> Networks:
            return TorchNetworks.open(checkpoint, device="cpu", dtype=precision, **options)  # type: ignore[arg-type]

        wide = precision == "fp32"
        return Case(open_torch, SHAPES, alone=1e-5 if wide else 3e-2, torch=1e-5 if wide else 5e-2)
    if backend == "onnxruntime":
        folder = request.getfixturevalue("onnx_folder" + ("_fp16" if precision == "fp16" else ""))

        def open_onnx(**options: Any) -> Networks:
            return OnnxNetworks.open(folder, device="cpu", **options)

        wide = precision == "fp32"
        return Case(open_onnx, SHAPES, alone=1e-5 if wide else 1e-2, torch=1e-4 if wide else 2e-2)
    folder = engines(request, "fp16")

    def open_trt(**options: Any) -> Networks:
        return TensorRTNetworks.open(folder, **options)

    return Case(open_trt, SHAPES, alone=1e-2, torch=2e-2)


@pytest.fixture(
    scope="module",
    params=[
        "fake",
        "torch-fp32",
        "torch-bf16",
        "onnxruntime-fp32",
        pytest.param("onnxruntime-fp16", marks=pytest.mark.slow),
        pytest.param("tensorrt-fp16", marks=pytest.mark.gpu),
    ],
)
def subject(request: pytest.FixtureRequest) -> Case:
    return case(request.param, request)


@pytest.fixture(scope="module")
def networks(subject: Case) -> Iterator[Networks]:
    opened = subject.open()
    yield opened
    opened.close()


@pytest.fixture(params=[network.name for network in NETWORKS])
def backend(networks: Networks, subject: Case, request: pytest.FixtureRequest) -> Backend:
    return networks.find(request.param, subject.shapes[request.param])


@pytest.fixture(scope="module")
def oracle(tiny: Path) -> TorchNetworks:
    return TorchNetworks.open(Checkpoint.open(tiny), device="cpu", dtype="fp32")


def rows(spec: NetSpec, count: int, device: torch.device, seed: int = 0) -> dict[str, Tensor]:
    """A batch of different rows: ids, timesteps across the schedule, pictures in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    batch = {}
    for tensor in spec.inputs:
        shape = (count, *tensor.shape)
        if tensor.dtype == "int64":
            made = torch.randint(0, 300, shape, generator=generator)
        elif tensor.name == "timestep":
            made = torch.linspace(999 - seed, 1, count)
        else:
            made = torch.randn(shape, generator=generator)
        batch[tensor.name] = (made.clamp(-1, 1) if tensor.name == "image" else made).to(device)
    return batch


def run(backend: Backend, batch: dict[str, Tensor]) -> Tensor:
    with torch.inference_mode():
        (output,) = backend(batch)
        return output.clone().cpu()


def profiles(spec: NetSpec) -> list[int]:
    """Every static profile; of a backend that takes any size, a few."""
    return [b for b in spec.batch_sizes if len(spec.batch_sizes) < 7 or b in (1, 3, spec.max_batch)]


def error(got: Tensor, want: Tensor) -> float:
    return float((got - want).norm() / want.norm())


def test_spec_is_the_networks(networks: Networks, backend: Backend, subject: Case) -> None:
    assert backend.spec.inputs[0].shape == subject.shapes[backend.spec.name]
    assert backend.device == networks.device
    if networks.name != "fake":
        assert networks.sizes is None or SIZE in networks.sizes


def test_spec_is_the_checkpoints(subject: Case, backend: Backend, tiny: Path) -> None:
    if subject.torch is None:
        pytest.skip("not applicable: it has no checkpoint")
    wanted = Checkpoint.open(tiny).spec(backend.spec.name, SIZE)
    assert (backend.spec.inputs, backend.spec.outputs) == (wanted.inputs, wanted.outputs)
    assert (backend.spec.role, backend.spec.size) == (wanted.role, wanted.size)


def test_every_batch_size_runs(backend: Backend) -> None:
    for size in profiles(backend.spec):
        with torch.inference_mode():
            outputs = backend(rows(backend.spec, size, backend.device))
        (got,), (tensor,) = outputs, backend.spec.outputs
        assert got.shape == (size, *tensor.shape)
        assert (got.dtype, got.device) == (torch.float32, backend.device)
        assert torch.isfinite(got).all()


def test_rows_in_a_batch_are_rows_alone(backend: Backend, subject: Case) -> None:
    size = min(backend.spec.max_batch, 4)
    smallest = backend.spec.batch_sizes[0]
    batch = rows(backend.spec, size, backend.device)
    together = run(backend, batch)
    for row in range(size):
        alone = {n: t[row : row + 1].repeat_interleave(smallest, 0) for n, t in batch.items()}
        assert error(together[row], run(backend, alone)[0]) <= subject.alone


def test_equals_torch_in_fp32(backend: Backend, subject: Case, oracle: TorchNetworks) -> None:
    if subject.torch is None:
        pytest.skip("not applicable: it computes something else")
    plain = oracle.find(*backend.spec.kind)
    for size in profiles(backend.spec):
        batch = rows(backend.spec, size, backend.device, seed=size)
        want = run(plain, {n: t.cpu() for n, t in batch.items()})
        assert error(run(backend, batch), want) <= subject.torch


def test_the_same_tensors_give_the_same_result(backend: Backend) -> None:
    batch = rows(backend.spec, backend.spec.max_batch, backend.device)
    before = {n: t.clone() for n, t in batch.items()}
    first = run(backend, batch)
    for _ in range(3):  # the third call replays what the second recorded, where graphs are used
        assert torch.equal(run(backend, batch), first)
    assert all(torch.equal(batch[n], before[n]) for n in batch)  # inputs are the caller's


def test_new_values_in_the_same_tensors_are_seen(backend: Backend) -> None:
    size = backend.spec.batch_sizes[-1]
    batch = rows(backend.spec, size, backend.device)
    first = run(backend, batch)
    run(backend, batch)
    other = rows(backend.spec, size, backend.device, seed=1)
    for name, tensor in batch.items():
        tensor.copy_(other[name])
    second = run(backend, batch)
    assert error(second, first) > 1e-3
    assert error(second, run(backend, other)) <= 1e-6


def test_a_clone_outlives_the_next_call(backend: Backend) -> None:
    size = backend.spec.batch_sizes[0]
    batch = rows(backend.spec, size, backend.device)
    with torch.inference_mode():
        kept = backend(batch)[0].clone()
    before = kept.cpu().clone()
    run(backend, rows(backend.spec, size, backend.device, seed=1))
    assert torch.equal(kept.cpu(), before)


def test_batch_sizes_do_not_disturb_each_other(backend: Backend) -> None:
    """Calls of different sizes in turn, as the batcher makes them."""
    sizes = {backend.spec.batch_sizes[0], backend.spec.batch_sizes[-1]}
    batches = {size: rows(backend.spec, size, backend.device) for size in sizes}
    first = {size: run(backend, batch) for size, batch in batches.items()}
    for _ in range(2):
        assert all(torch.equal(run(backend, batches[size]), first[size]) for size in sizes)


def test_find_gives_the_same_backend_again(networks: Networks, backend: Backend) -> None:
    assert networks.find(*backend.spec.kind) is backend


def test_an_unknown_network_is_refused(networks: Networks) -> None:
    for shape in ((4, 16, 16), (3,)):
        with pytest.raises(EngineMismatch, match="clip"):
            networks.find("clip", shape)


@pytest.mark.parametrize(
    ("net", "shape"),
    [("text", (64,)), ("unet", (9, 16, 16)), ("vae_encode", (1, 64, 64)), ("unet", (4, 16))],
)
def test_an_unknown_shape_is_refused(
    networks: Networks, subject: Case, net: str, shape: tuple[int, ...]
) -> None:
    if subject.torch is None:
        pytest.skip("not applicable: it takes any shape")
    with pytest.raises(EngineMismatch):
        networks.find(net, shape)


def test_a_size_that_does_not_fit_the_cells_is_refused(networks: Networks, subject: Case) -> None:
    if subject.torch is None:
        pytest.skip("not applicable: it takes any shape")
    with pytest.raises(EngineMismatch):
        networks.find("vae_encode", (3, 66, 64))


def test_describes_itself_in_one_line(networks: Networks) -> None:
    line = networks.describe()
    assert line
    assert "\n" not in line


def test_a_pinned_backend_has_one_profile(subject: Case) -> None:
    pinned = subject.open(pin_batch_size=2)
    for net, shape in subject.shapes.items():
        assert pinned.find(net, shape).spec.batch_sizes == (2,)
    pinned.close()


def test_pinned_rows_are_equal_to_the_bit(subject: Case) -> None:
    """Whatever shares the batch: that is what pinning is for."""
    pinned = subject.open(pin_batch_size=4)
    for net, shape in subject.shapes.items():
        backend = pinned.find(net, shape)
        batch = rows(backend.spec, 4, backend.device)
        mixed = {n: t.clone() for n, t in batch.items()}
        other = rows(backend.spec, 4, backend.device, seed=1)
        for name, tensor in mixed.items():
            tensor[1:] = other[name][1:]
        assert torch.equal(run(backend, batch)[0], run(backend, mixed)[0])
    pinned.close()
