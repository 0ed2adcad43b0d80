"""The onnxruntime backend: what it refuses to load, and how it uses the caller's memory."""

from __future__ import annotations

import sys
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor

from engine.backends.onnxruntime.networks import (
    OnnxBackend,
    OnnxNetworks,
    choose_device,
    provider_list,
    session_options,
)
from engine.checkpoint import Checkpoint
from engine.errors import EngineMismatch
from engine.netspec import Precision
from tests.engine.compiled import TOKENS, entry, manifest, only, spec, text_onnx

FILE = "text-5.onnx"
WEIGHT = torch.tensor([1.0, 2.0, 3.0])


def text(folder: Path, **options: object) -> OnnxBackend:
    """The backend of the one-layer text encoder, after writing it into `folder`."""
    data = options.pop("data", None)
    assert data is None or isinstance(data, str)
    net = text_onnx(folder / FILE, **options)  # type: ignore[arg-type]
    manifest(folder, [entry(folder, net, content=None, data=data)])
    return OnnxNetworks.open(folder).find("text", (TOKENS,))


def ids(rows: int = 2) -> Tensor:
    return torch.arange(rows * TOKENS).reshape(rows, TOKENS)


def test_runs_on_the_addresses_it_was_given(tmp_path: Path) -> None:
    backend = text(tmp_path)
    batch = {"input_ids": ids()}
    first = only(backend(batch))
    assert torch.equal(first, ids()[..., None] * WEIGHT)
    batch["input_ids"].zero_()
    assert only(backend(batch)).data_ptr() == first.data_ptr()
    assert torch.equal(first, torch.zeros(2, TOKENS, 3))


def test_other_tensors_are_bound_anew(tmp_path: Path) -> None:
    backend = text(tmp_path)
    backend({"input_ids": ids()})
    assert torch.equal(only(backend({"input_ids": ids() + 1})), (ids() + 1)[..., None] * WEIGHT)
    assert torch.equal(only(backend({"input_ids": ids(4)})), ids(4)[..., None] * WEIGHT)


def test_refuses_what_an_address_does_not_say(tmp_path: Path) -> None:
    backend = text(tmp_path)
    with pytest.raises(ValueError, match="batches of"):
        backend({"input_ids": ids(3)})
    with pytest.raises(ValueError, match=r"text\.input_ids must be a contiguous int64"):
        backend({"input_ids": ids().int()})


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_narrow_weights_run_on_a_cpu(tmp_path: Path, precision: Precision) -> None:
    backend = text(tmp_path, precision=precision)
    assert backend.spec.precision == precision
    assert torch.equal(only(backend({"input_ids": ids()})), ids()[..., None] * WEIGHT)


def test_bf16_on_a_cpu_is_refused_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(EngineMismatch, match=r"no bf16 kernels .*--precision fp32"):
        text(tmp_path, precision="bf16")


def test_weights_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "w.data").write_bytes(WEIGHT.numpy().tobytes())
    backend = text(tmp_path, location="w.data", data="w.data")
    assert torch.equal(only(backend({"input_ids": ids()})), ids()[..., None] * WEIGHT)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("location", ["../w.data", "ABSOLUTE", "w.data", "sub/w.data", "./w.data"])
def test_weights_from_elsewhere_are_refused(tmp_path: Path, location: str, nested: bool) -> None:
    """Also where the file is there and its bytes are right: it is not in the manifest."""
    folder = tmp_path / "engines"
    (folder / "sub").mkdir(parents=True)
    for place in (tmp_path, folder, folder / "sub"):
        (place / "w.data").write_bytes(WEIGHT.numpy().tobytes())
    said = location.replace("ABSOLUTE", str(tmp_path / "w.data"))
    with pytest.raises(EngineMismatch, match=r"which its manifest does not list"):
        text(folder, location=said, nested=nested)


def test_a_manifest_cannot_list_a_way_out(tmp_path: Path) -> None:
    folder = tmp_path / "engines"
    folder.mkdir()
    (tmp_path / "w.data").write_bytes(WEIGHT.numpy().tobytes())
    with pytest.raises(EngineMismatch, match="not a plain file name"):
        text(folder, location="../w.data", data="../w.data")


def test_a_changed_file_is_not_loaded(tmp_path: Path) -> None:
    text(tmp_path)
    networks = OnnxNetworks.open(tmp_path)
    changed = bytearray((tmp_path / FILE).read_bytes())
    changed[-1] ^= 1
    (tmp_path / FILE).write_bytes(changed)
    with pytest.raises(EngineMismatch, match="was changed since it was built"):
        networks.find("text", (TOKENS,))
    (tmp_path / FILE).write_bytes(changed[:-9])
    with pytest.raises(EngineMismatch, match="is truncated"):
        networks.find("text", (TOKENS,))


def test_bytes_that_are_no_network(tmp_path: Path) -> None:
    manifest(tmp_path, [entry(tmp_path, spec("text"), content=b"\xff\xff not a network")])
    with pytest.raises(EngineMismatch, match="is no ONNX file"):
        OnnxNetworks.open(tmp_path).find("text", (TOKENS,))


def test_a_network_of_another_border(tmp_path: Path) -> None:
    with pytest.raises(EngineMismatch, match=r"output 'embedding' of .* is missing"):
        text(tmp_path, output="states")


def test_sessions_are_made_when_first_needed(tmp_path: Path) -> None:
    text(tmp_path)
    networks = OnnxNetworks.open(tmp_path)
    (tmp_path / FILE).unlink()
    with pytest.raises(EngineMismatch, match="is missing"):
        networks.find("text", (TOKENS,))


def test_an_unfinished_folder_is_no_model(tmp_path: Path) -> None:
    text(tmp_path)
    with pytest.raises(EngineMismatch, match="not finished"):
        OnnxNetworks.open(tmp_path, digests={})


def test_the_model_in_use_is_compared(onnx_folder: Path, tiny: Path, tiny_v: Path) -> None:
    digests = {p: Checkpoint.open(tiny).digest(p) for p in ("unet", "vae", "text_encoder")}
    networks = OnnxNetworks.open(onnx_folder, digests=digests)
    assert networks.sizes == ((64, 64),)
    assert networks.describe().endswith("threads, fp32")
    other = {"unet": Checkpoint.open(tiny_v).digest("unet")}
    with pytest.raises(EngineMismatch, match="whose unet differs"):
        OnnxNetworks.open(onnx_folder, digests=other)


@pytest.mark.parametrize(
    ("asked", "providers", "gpu", "got"),
    [
        (None, ["CPUExecutionProvider"], True, "cpu"),
        (None, ["CUDAExecutionProvider"], False, "cpu"),
        (None, ["CUDAExecutionProvider"], True, "cuda"),
        ("cuda:1", ["CUDAExecutionProvider"], True, "cuda:1"),
        ("cpu", ["CUDAExecutionProvider"], True, "cpu"),
    ],
)
def test_cuda_is_taken_where_both_have_it(
    asked: str | None, providers: list[str], gpu: bool, got: str
) -> None:
    assert str(choose_device(asked, providers, gpu)) == got


@pytest.mark.parametrize(
    ("asked", "providers", "gpu", "words"),
    [
        ("cuda", ["CPUExecutionProvider"], True, "install onnxruntime-gpu"),
        ("cuda", ["CUDAExecutionProvider"], False, "torch finds no NVIDIA GPU"),
        ("mps", ["CUDAExecutionProvider"], True, "cpu or cuda, not on mps"),
    ],
)
def test_a_device_that_is_not_there(
    asked: str, providers: list[str], gpu: bool, words: str
) -> None:
    with pytest.raises(EngineMismatch, match=words):
        choose_device(asked, providers, gpu)


def test_cuda_runs_on_our_stream_and_device() -> None:
    first, fallback = provider_list(torch.device("cuda", 3), 4711)
    assert isinstance(first, tuple)
    name, options = first
    assert (name, fallback) == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert (options["device_id"], options["user_compute_stream"]) == ("3", "4711")
    assert provider_list(torch.device("cpu"), 0) == ["CPUExecutionProvider"]


def test_options_follow_torch_and_the_pin() -> None:
    for pinned in (False, True):
        options = session_options(onnxruntime, pinned=pinned)
        assert options.intra_op_num_threads == torch.get_num_threads()
        assert options.use_deterministic_compute is pinned
        assert options.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL


@pytest.mark.parametrize("package", ["onnxruntime", "onnx"])
def test_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    text(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(EngineMismatch, match=rf"needs the package {package} .*diffedit-trt\[onnx"):
        OnnxNetworks.open(tmp_path).find("text", (TOKENS,))


@pytest.mark.gpu
@pytest.mark.skipif(
    "CUDAExecutionProvider" not in onnxruntime.get_available_providers(),
    reason="the installed onnxruntime has no CUDA",
)
def test_cuda_agrees_with_the_cpu(onnx_folder: Path) -> None:
    """Inputs written by torch just before the call, results read just after: no missing order."""
    there, here = (OnnxNetworks.open(onnx_folder, device=d) for d in ("cuda", "cpu"))
    kind = ("unet", (4, 16, 16))
    cuda, cpu = there.find(*kind), here.find(*kind)
    for size in cuda.spec.batch_sizes:
        batch = {
            t.name: torch.zeros((size, *t.shape), device=cuda.device) for t in cuda.spec.inputs
        }
        for seed in range(5):
            generator = torch.Generator().manual_seed(seed)
            rows = {n: torch.randn(t.shape, generator=generator) for n, t in batch.items()}
            for name, tensor in rows.items():
                batch[name].copy_(tensor)
            got = only(cuda(batch)).clone().cpu()
            torch.testing.assert_close(got, only(cpu(rows)), rtol=1e-3, atol=1e-4)
    there.close()
