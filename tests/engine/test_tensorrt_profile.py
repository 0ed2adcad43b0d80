"""When a profile binds, runs, captures and replays.

The execution context and `torch.cuda` are substitutes that record their calls; test_tensorrt_gpu.py
uses the real ones.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from engine.backends.tensorrt.arena import Arena
from engine.backends.tensorrt.profile import Profile, SharedResources
from engine.cuda import ExecutionStream
from engine.cuda_graphs import CudaGraphs
from engine.errors import EngineMismatch
from engine.netspec import NetSpec, TensorSpec
from tests.engine.compiled import spec
from tests.engine.fake_cuda import FakeCuda, aligned
from tests.engine.fake_tensorrt import Context

CPU = torch.device("cpu")


class Contexts:
    """A factory that returns one given context."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.saved = 0

    def create(self) -> Context:
        return self.context

    def save_cache(self) -> None:
        self.saved += 1

    def error(self, what: str) -> EngineMismatch:
        return EngineMismatch(what)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    fake.install(monkeypatch)
    return fake


IMAGE = (2, 3, 64, 64)


def profile_of(
    context: Context, net: NetSpec | None = None, *, cuda_graphs: bool = True
) -> tuple[Profile, Arena, Contexts]:
    arena = Arena(CPU)
    arena.reserve(512)
    graphs = CudaGraphs[None](ExecutionStream(CPU), 8 if cuda_graphs else 0)
    resources = SharedResources(arena, graphs)
    contexts: Any = Contexts(context)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", aligned)
        profile = Profile(net or spec("vae_encode"), 2, 1, contexts, resources)
    return profile, arena, contexts


def test_a_profile_is_bound_once_and_captured_once(cuda: FakeCuda) -> None:
    context = Context()
    profile, _, contexts = profile_of(context)
    image = aligned(IMAGE)
    for _ in range(5):
        assert profile([image]) is profile.outputs
    names = [call[0] for call in context.calls]
    assert names[:3] == ["set_optimization_profile_async", "set_input_shape", "set_tensor_address"]
    assert context.calls[0] == ("set_optimization_profile_async", 1, 7)
    assert context.calls[1] == ("set_input_shape", "image", IMAGE)
    assert ("set_tensor_address", "image", image.data_ptr()) in context.calls
    assert context.count("set_tensor_address") == 2  # the output and the input, once each
    assert context.count("set_device_memory") == 1
    assert context.count("execute_async_v3") == 2  # the warm-up and the capture
    assert [g.replays for g in cuda.graphs] == [4]
    assert contexts.saved == 1


def test_every_call_is_ordered_with_the_callers_stream(cuda: FakeCuda) -> None:
    profile, _, _ = profile_of(Context())
    image = aligned(IMAGE)
    for _ in range(2):
        profile([image])
    before, after = "own waits for caller", "caller waits for own"
    capture = ["synchronize", "capture_begin thread_local on own", "capture_end on own"]
    assert cuda.log == [before, after, *capture, before, "replay on own", after]


def test_every_output_is_allocated_and_bound_by_name(cuda: FakeCuda) -> None:
    net, context = spec("vae_encode"), Context()
    outputs = (TensorSpec("mean", (4, 8, 8)), TensorSpec("positions", (5,), "int64"))
    object.__setattr__(net, "outputs", outputs)
    profile, _, _ = profile_of(context, net)
    mean, positions = profile([aligned(IMAGE)])
    assert (mean.shape, mean.dtype) == ((2, 4, 8, 8), torch.float32)
    assert (positions.shape, positions.dtype) == ((2, 5), torch.int64)
    assert ("set_tensor_address", "mean", mean.data_ptr()) in context.calls
    assert ("set_tensor_address", "positions", positions.data_ptr()) in context.calls


def test_without_graphs_every_call_is_enqueued(cuda: FakeCuda) -> None:
    context = Context()
    profile, _, _ = profile_of(context, cuda_graphs=False)
    image = aligned(IMAGE)
    for _ in range(3):
        profile([image])
    assert context.count("execute_async_v3") == 3
    assert cuda.graphs == []


def test_new_addresses_and_a_moved_arena_are_bound_again(cuda: FakeCuda) -> None:
    context = Context()
    profile, arena, _ = profile_of(context)
    one, other = aligned(IMAGE), aligned(IMAGE)
    for image in (one, one, other, other, other):
        profile([image])
    assert [g.replays for g in cuda.graphs] == [1, 2]
    arena.reserve(100)  # fits: the arena does not move
    profile([other])
    assert [g.replays for g in cuda.graphs] == [1, 3]
    arena.reserve(4096)
    profile([other])
    assert [g.replays for g in cuda.graphs] == [1, 3]
    assert ("set_device_memory", *arena.address_and_size()) in context.calls
    profile([other])
    assert [g.replays for g in cuda.graphs] == [1, 3, 1]


@pytest.mark.parametrize("refuse", ["is_stream_capturable", "capture_end"])
def test_a_profile_that_cannot_be_captured_runs_without_a_graph(
    cuda: FakeCuda, caplog: pytest.LogCaptureFixture, refuse: str
) -> None:
    context = Context(refuse)
    cuda.fail = refuse
    profile, _, _ = profile_of(context)
    image = aligned(IMAGE)
    for _ in range(4):
        profile([image])
    during_capture = int(refuse == "capture_end")
    assert context.count("execute_async_v3") == 4 + during_capture
    assert len([m for m in caplog.messages if "No CUDA graph for vae_encode at batch 2" in m]) == 1
    assert "stack trace" not in caplog.text


def test_a_call_that_cannot_be_enqueued_during_the_capture_runs_without_a_graph(
    cuda: FakeCuda, caplog: pytest.LogCaptureFixture
) -> None:
    context = Context()
    profile, _, _ = profile_of(context)
    image = aligned(IMAGE)
    profile([image])
    context.refuse = "execute_async_v3"
    with pytest.raises(EngineMismatch, match="could not be enqueued"):
        profile([image])
    assert "No CUDA graph for vae_encode at batch 2" in caplog.text
    context.refuse = ""
    profile([image])
    assert sum("capture_begin" in event for event in cuda.log) == 1


@pytest.mark.parametrize(
    "refuse",
    ["set_optimization_profile_async", "set_input_shape", "infer_shapes", "set_tensor_address"],
)
def test_a_setting_that_tensorrt_refuses_is_an_error(cuda: FakeCuda, refuse: str) -> None:
    with pytest.raises(EngineMismatch, match="vae_encode at batch 2"):
        profile_of(Context(refuse))


def test_after_a_failed_call_the_inputs_are_bound_again(cuda: FakeCuda) -> None:
    context = Context("execute_async_v3")
    profile, _, _ = profile_of(context)
    image = aligned(IMAGE)
    for _ in range(2):
        with pytest.raises(EngineMismatch, match="could not be enqueued"):
            profile([image])
    context.refuse = ""
    profile([image])
    assert context.count("set_device_memory") == 3
    assert cuda.graphs == []


def test_inputs_of_another_type_or_alignment_are_refused(cuda: FakeCuda) -> None:
    profile, _, _ = profile_of(Context())
    with pytest.raises(ValueError, match="must be a contiguous fp32 tensor"):
        profile([aligned(IMAGE).double()])
    with pytest.raises(ValueError, match="multiple of 256 bytes"):
        profile([aligned((2 * 3 * 64 * 64 + 1,))[1:].view(IMAGE)])


def test_an_arena_that_cannot_grow_keeps_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    arena = Arena(CPU)
    arena.reserve(512)
    generation = arena.generation
    empty = torch.empty

    def full(size: int, **options: Any) -> Tensor:
        if size > 512:
            raise torch.OutOfMemoryError("full")
        return empty(size, **options)

    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(torch.OutOfMemoryError):
        arena.reserve(1024)
    assert arena.address_and_size()[1] == 512
    assert arena.generation > generation  # its address may have changed
