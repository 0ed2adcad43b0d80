"""Which device ONNX Runtime uses, and how a call is ordered with the caller's stream."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import onnxruntime
import pytest
import torch

from engine.backends.onnxruntime.networks import OnnxBackend, OnnxNetworks
from engine.backends.onnxruntime.session import choose_device, execution_providers, session_options
from engine.cuda import ExecutionStream
from engine.errors import EngineMismatch
from engine.netspec import TensorSpec
from tests.engine.compiled import TOKENS, only, spec
from tests.engine.fake_cuda import FakeCuda
from tests.engine.onnx_text import CPU, ids, text


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
    kind = ("unet", (4, 16, 24))
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
