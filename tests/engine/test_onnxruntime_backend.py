"""The ONNX Runtime backend: which files it refuses, and how it uses the caller's tensors."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor

from engine.backends.onnxruntime.networks import OnnxBackend, OnnxNetworks
from engine.backends.onnxruntime.session import (
    choose_device,
    execution_providers,
    session_options,
)
from engine.checkpoint import Checkpoint
from engine.cuda import ExecutionStream
from engine.errors import EngineMismatch
from engine.netspec import Precision, TensorSpec
from tests.engine.compiled import TOKENS, entry, manifest, only, spec, text_onnx
from tests.engine.fake_cuda import FakeCuda

FILE = "text-5.onnx"
CPU = torch.device("cpu")
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


def test_inputs_and_outputs_are_used_without_a_copy(tmp_path: Path) -> None:
    backend = text(tmp_path)
    batch = {"input_ids": ids()}
    first = only(backend(batch))
    assert torch.equal(first, ids()[..., None] * WEIGHT)
    batch["input_ids"].zero_()
    assert only(backend(batch)).data_ptr() == first.data_ptr()
    assert torch.equal(first, torch.zeros(2, TOKENS, 3))


def test_other_tensors_are_bound_again(tmp_path: Path) -> None:
    backend = text(tmp_path)
    backend({"input_ids": ids()})
    assert torch.equal(only(backend({"input_ids": ids() + 1})), (ids() + 1)[..., None] * WEIGHT)
    assert torch.equal(only(backend({"input_ids": ids(4)})), ids(4)[..., None] * WEIGHT)


def test_inputs_of_another_size_or_type_are_refused(tmp_path: Path) -> None:
    backend = text(tmp_path)
    with pytest.raises(ValueError, match="batches of"):
        backend({"input_ids": ids(3)})
    with pytest.raises(ValueError, match=r"text\.input_ids must be a contiguous int64"):
        backend({"input_ids": ids().int()})


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_fp32_and_fp16_run_on_a_cpu(tmp_path: Path, precision: Precision) -> None:
    backend = text(tmp_path, precision=precision)
    assert backend.spec.precision == precision
    assert torch.equal(only(backend({"input_ids": ids()})), ids()[..., None] * WEIGHT)


def test_bf16_on_a_cpu_is_refused_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(EngineMismatch, match=r"no bf16 kernels .*--precision fp32"):
        text(tmp_path, precision="bf16")


def test_external_weights_are_loaded(tmp_path: Path) -> None:
    (tmp_path / "w.data").write_bytes(WEIGHT.numpy().tobytes())
    backend = text(tmp_path, location="w.data", data="w.data")
    assert torch.equal(only(backend({"input_ids": ids()})), ids()[..., None] * WEIGHT)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("location", ["../w.data", "ABSOLUTE", "w.data", "sub/w.data", "./w.data"])
def test_external_weights_outside_the_manifest_are_refused(
    tmp_path: Path, location: str, nested: bool
) -> None:
    """Even if the file exists and has the right content: the manifest does not list it."""
    folder = tmp_path / "engines"
    (folder / "sub").mkdir(parents=True)
    for parent in (tmp_path, folder, folder / "sub"):
        (parent / "w.data").write_bytes(WEIGHT.numpy().tobytes())
    path = location.replace("ABSOLUTE", str(tmp_path / "w.data"))
    with pytest.raises(EngineMismatch, match=r"which its manifest does not list"):
        text(folder, location=path, nested=nested)


def test_a_manifest_cannot_list_a_file_outside_its_folder(tmp_path: Path) -> None:
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


def test_a_file_that_is_not_onnx_is_refused(tmp_path: Path) -> None:
    manifest(tmp_path, [entry(tmp_path, spec("text"), content=b"\xff\xff not a network")])
    with pytest.raises(EngineMismatch, match="is not an ONNX file"):
        OnnxNetworks.open(tmp_path).find("text", (TOKENS,))


def test_outputs_must_match_the_manifest(tmp_path: Path) -> None:
    with pytest.raises(EngineMismatch, match=r"output 'embedding' of .* is missing"):
        text(tmp_path, output="states")


def test_a_session_is_loaded_at_its_first_use(tmp_path: Path) -> None:
    text(tmp_path)
    networks = OnnxNetworks.open(tmp_path)
    (tmp_path / FILE).unlink()
    with pytest.raises(EngineMismatch, match="is missing"):
        networks.find("text", (TOKENS,))


def test_an_unfinished_folder_is_refused(tmp_path: Path) -> None:
    text(tmp_path)
    with pytest.raises(EngineMismatch, match="not finished"):
        OnnxNetworks.open(tmp_path, digests={})


def test_engines_of_another_model_are_refused(onnx_folder: Path, tiny: Path, tiny_v: Path) -> None:
    digests = {p: Checkpoint.open(tiny).digest(p) for p in ("unet", "vae", "text_encoder")}
    networks = OnnxNetworks.open(onnx_folder, digests=digests)
    assert networks.sizes == ((64, 64),)
    assert networks.describe().endswith("threads, fp32")
    other = {"unet": Checkpoint.open(tiny_v).digest("unet")}
    with pytest.raises(EngineMismatch, match="whose unet differs"):
        OnnxNetworks.open(onnx_folder, digests=other)


@pytest.mark.parametrize(
    ("device", "providers", "gpu", "chosen"),
    [
        (None, ["CPUExecutionProvider"], True, "cpu"),
        (None, ["CUDAExecutionProvider"], False, "cpu"),
        (None, ["CUDAExecutionProvider"], True, "cuda"),
        ("cuda:1", ["CUDAExecutionProvider"], True, "cuda:1"),
        ("cpu", ["CUDAExecutionProvider"], True, "cpu"),
    ],
)
def test_cuda_is_the_default_if_torch_and_onnxruntime_support_it(
    device: str | None, providers: list[str], gpu: bool, chosen: str
) -> None:
    assert str(choose_device(device, providers, gpu)) == chosen


@pytest.mark.parametrize(
    ("device", "providers", "gpu", "message"),
    [
        ("cuda", ["CPUExecutionProvider"], True, "install onnxruntime-gpu"),
        ("cuda", ["CUDAExecutionProvider"], False, "torch finds no NVIDIA GPU"),
        ("mps", ["CUDAExecutionProvider"], True, "cpu or cuda, not on mps"),
    ],
)
def test_an_unsupported_device_is_refused(
    device: str, providers: list[str], gpu: bool, message: str
) -> None:
    with pytest.raises(EngineMismatch, match=message):
        choose_device(device, providers, gpu)


def test_cuda_runs_on_the_given_stream_and_device() -> None:
    first, fallback = execution_providers(torch.device("cuda", 3), 4711)
    assert isinstance(first, tuple)
    name, options = first
    assert (name, fallback) == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert (options["device_id"], options["user_compute_stream"]) == ("3", "4711")
    assert (options["use_tf32"], options["cudnn_conv_algo_search"]) == ("0", "EXHAUSTIVE")
    assert execution_providers(torch.device("cpu"), 0) == ["CPUExecutionProvider"]


def test_tf32_and_deterministic_convolutions_are_options() -> None:
    first, _ = execution_providers(torch.device("cuda", 0), 1, allow_tf32=True, deterministic=True)
    assert isinstance(first, tuple)
    _, options = first
    assert (options["use_tf32"], options["cudnn_conv_algo_search"]) == ("1", "HEURISTIC")


def test_a_closed_gpu_pipeline_gives_its_memory_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text(tmp_path)
    folder = OnnxNetworks.open(tmp_path).folder
    cuda = FakeCuda()
    cuda.install(monkeypatch)
    OnnxNetworks(onnxruntime, folder, torch.device("cuda", 1)).close()
    assert cuda.log == ["synchronize", "empty_cache of gpu 1"]


def test_session_options_use_torchs_threads() -> None:
    for deterministic in (False, True):
        options = session_options(onnxruntime, deterministic=deterministic)
        assert options.intra_op_num_threads == torch.get_num_threads()
        assert options.use_deterministic_compute is deterministic
        assert options.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL


@pytest.mark.parametrize("package", ["onnxruntime", "onnx"])
def test_a_missing_package_raises_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    text(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(EngineMismatch, match=rf"needs the package {package} "):
        OnnxNetworks.open(tmp_path).find("text", (TOKENS,))


class Session:
    """A session that records its bindings and the stream of its runs, or fails with `error`."""

    def __init__(self, cuda: FakeCuda | None = None, error: str = "") -> None:
        self.cuda = cuda
        self.error = error
        self.bound: dict[str, tuple[object, ...]] = {}

    def io_binding(self) -> Session:
        return self

    def bind_input(self, name: str, *buffer: object) -> None:
        self.bound[name] = buffer

    bind_output = bind_input

    def run_with_iobinding(self, binding: Session, options: object) -> None:
        if self.error:
            raise RuntimeError(self.error)
        if self.cuda:
            self.cuda.record("run")


def test_every_output_is_bound_by_name() -> None:
    net, session = spec("text"), Session()
    outputs = (TensorSpec("embedding", (TOKENS, 3)), TensorSpec("pooled", (3,)))
    backend = OnnxBackend(onnxruntime, session, replace(net, outputs=outputs), CPU, None)
    output, pooled = backend({"input_ids": ids()})
    assert list(session.bound) == ["input_ids", "embedding", "pooled"]
    assert session.bound["embedding"][3:] == ([2, TOKENS, 3], output.data_ptr())
    assert session.bound["pooled"][3:] == ([2, 3], pooled.data_ptr())


def test_a_call_on_a_gpu_is_ordered_with_the_callers_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda = FakeCuda()
    cuda.install(monkeypatch)
    backend = OnnxBackend(onnxruntime, Session(cuda), spec("text"), CPU, ExecutionStream(CPU))
    backend({"input_ids": ids()})
    assert cuda.log == ["own waits for caller", "run on own", "caller waits for own"]


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ("Failed to allocate memory", torch.OutOfMemoryError),
        ("CUBLAS_STATUS_ALLOC_FAILED", torch.OutOfMemoryError),
        ("bad node", RuntimeError),
    ],
)
def test_lack_of_memory_is_an_out_of_memory_error(message: str, error: type[Exception]) -> None:
    backend = OnnxBackend(onnxruntime, Session(error=message), spec("text"), CPU, None)
    with pytest.raises(RuntimeError, match=message) as caught:
        backend({"input_ids": ids()})
    assert type(caught.value) is error


@pytest.mark.gpu
@pytest.mark.skipif(
    "CUDAExecutionProvider" not in onnxruntime.get_available_providers(),
    reason="the installed onnxruntime has no CUDA",
)
def test_cuda_agrees_with_the_cpu(onnx_folder: Path) -> None:
    """Inputs are written just before the call and outputs read just after it."""
    on_cuda, on_cpu = (OnnxNetworks.open(onnx_folder, device=d) for d in ("cuda", "cpu"))
    kind = ("unet", (4, 16, 16))
    cuda, cpu = on_cuda.find(*kind), on_cpu.find(*kind)
    for size in cuda.spec.batch_sizes:
        batch = {
            t.name: torch.zeros((size, *t.shape), device=cuda.device) for t in cuda.spec.inputs
        }
        for seed in range(5):
            generator = torch.Generator().manual_seed(seed)
            rows = {n: torch.randn(t.shape, generator=generator) for n, t in batch.items()}
            for name, tensor in rows.items():
                batch[name].copy_(tensor)
            output = only(cuda(batch)).clone().cpu()
            torch.testing.assert_close(output, only(cpu(rows)), rtol=1e-3, atol=1e-4)
    on_cuda.close()
