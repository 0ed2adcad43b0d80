"""When a profile binds, runs, captures and replays.

The order of these is decided by plain code around an execution context. Here the context is one
that writes down what it is told; the real one stands in test_tensorrt_gpu.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.backends.tensorrt import profile as profile_module
from engine.backends.tensorrt.profile import Arena, ExecutionStream, Profile
from engine.errors import EngineMismatch
from tests.engine.compiled import spec


class Context:
    """An execution context that writes down what it is told, and can refuse."""

    def __init__(self, refuse: str = "") -> None:
        self.told: list[tuple[Any, ...]] = []
        self.refuse = refuse

    def infer_shapes(self) -> list[str]:
        return ["latent"] if self.refuse == "infer_shapes" else []

    def __getattr__(self, name: str) -> Any:
        def method(*arguments: Any) -> bool:
            self.told.append((name, *arguments))
            return name != self.refuse

        return method

    def count(self, name: str) -> int:
        return sum(told[0] == name for told in self.told)


class Stream:
    device = torch.device("cpu")
    cuda_stream = 7

    def wait_stream(self, other: Any) -> None:
        pass


class Contexts:
    def __init__(self, context: Context) -> None:
        self.context = context
        self.saved = 0

    def make(self) -> Context:
        return self.context

    def save_cache(self) -> None:
        self.saved += 1

    def error(self, what: str) -> EngineMismatch:
        return EngineMismatch(what)


class Graph:
    replays = 0

    def replay(self) -> None:
        self.replays += 1


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Graph]:
    """Every graph that is captured; streams of a machine without a GPU."""
    made: list[Graph] = []

    def capture(stream: Any, enqueue: Any) -> Graph:
        enqueue()
        made.append(Graph())
        return made[-1]

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream())
    monkeypatch.setattr(profile_module, "capture", capture)
    return made


def aligned(*shape: int) -> Tensor:
    """A float tensor on a 256-byte boundary, as CUDA memory always is."""
    count = int(torch.tensor(shape).prod())
    raw = torch.zeros(count * 4 + 256, dtype=torch.uint8)
    start = -raw.data_ptr() % 256
    return raw[start : start + count * 4].view(torch.float32).view(shape)


def profile_of(
    context: Context, monkeypatch: pytest.MonkeyPatch, *, cuda_graphs: bool = True
) -> tuple[Profile, Arena, Contexts]:
    arena = Arena(torch.device("cpu"))
    arena.reserve(512)
    lane = ExecutionStream(arena, Stream(), cuda_graphs)  # type: ignore[arg-type]
    made = Contexts(context)
    monkeypatch.setattr(torch, "empty", lambda shape, **_: aligned(*shape))
    profile = Profile(spec("vae_encode"), 2, 1, made, lane)  # type: ignore[arg-type]
    monkeypatch.undo()
    return profile, arena, made


@pytest.fixture
def patched(graphs: list[Graph]) -> Iterator[pytest.MonkeyPatch]:
    """A patcher of its own, so that undoing it leaves the streams alone."""
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def test_set_once_bound_once_captured_once(
    graphs: list[Graph], patched: pytest.MonkeyPatch
) -> None:
    context = Context()
    profile, _, made = profile_of(context, patched)
    image = aligned(2, 3, 64, 64)
    for _ in range(5):
        assert profile([image]) is profile.output
    names = [told[0] for told in context.told]
    assert names[:3] == ["set_optimization_profile_async", "set_input_shape", "set_tensor_address"]
    assert context.told[0] == ("set_optimization_profile_async", 1, 7)
    assert context.told[1] == ("set_input_shape", "image", (2, 3, 64, 64))
    assert ("set_tensor_address", "image", image.data_ptr()) in context.told
    assert context.count("set_tensor_address") == 2  # the output and the input, once each
    assert context.count("set_device_memory") == 1
    assert context.count("execute_async_v3") == 2  # the warm-up and the capture
    assert [g.replays for g in graphs] == [4]
    assert made.saved == 1


def test_without_graphs_every_call_is_enqueued(
    graphs: list[Graph], patched: pytest.MonkeyPatch
) -> None:
    context = Context()
    profile, _, _ = profile_of(context, patched, cuda_graphs=False)
    image = aligned(2, 3, 64, 64)
    for _ in range(3):
        profile([image])
    assert context.count("execute_async_v3") == 3
    assert graphs == []


def test_other_addresses_and_a_moved_arena_start_over(
    graphs: list[Graph], patched: pytest.MonkeyPatch
) -> None:
    context = Context()
    profile, arena, _ = profile_of(context, patched)
    one, other = aligned(2, 3, 64, 64), aligned(2, 3, 64, 64)
    for image in (one, one, other, other, other):
        profile([image])
    assert [g.replays for g in graphs] == [1, 2]
    arena.reserve(100)  # fits: nothing moves
    profile([other])
    assert [g.replays for g in graphs] == [1, 3]
    arena.reserve(4096)
    profile([other])
    assert [g.replays for g in graphs] == [1, 3]
    assert ("set_device_memory", *arena.place()) in context.told
    profile([other])
    assert [g.replays for g in graphs] == [1, 3, 1]


@pytest.mark.parametrize("refuse", ["is_stream_capturable", "capture"])
def test_what_cannot_be_captured_runs_without(
    graphs: list[Graph],
    patched: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    refuse: str,
) -> None:
    context = Context(refuse)
    profile, _, _ = profile_of(context, patched)

    def fail(stream: Any, enqueue: Any) -> Graph:
        raise RuntimeError("operation not permitted when stream is capturing\nand a trace")

    if refuse == "capture":
        monkeypatch.setattr(profile_module, "capture", fail)
    image = aligned(2, 3, 64, 64)
    for _ in range(4):
        profile([image])
    assert context.count("execute_async_v3") == 4
    assert len([m for m in caplog.messages if "No CUDA graph for vae_encode at batch 2" in m]) == 1
    assert "trace" not in caplog.text


@pytest.mark.parametrize(
    "refuse",
    ["set_optimization_profile_async", "set_input_shape", "infer_shapes", "set_tensor_address"],
)
def test_a_context_that_refuses_is_no_profile(
    graphs: list[Graph], patched: pytest.MonkeyPatch, refuse: str
) -> None:
    with pytest.raises(EngineMismatch, match="vae_encode at batch 2"):
        profile_of(Context(refuse), patched)


def test_a_call_that_failed_is_bound_anew(graphs: list[Graph], patched: pytest.MonkeyPatch) -> None:
    context = Context("execute_async_v3")
    profile, _, _ = profile_of(context, patched)
    image = aligned(2, 3, 64, 64)
    for _ in range(2):
        with pytest.raises(EngineMismatch, match="could not be enqueued"):
            profile([image])
    context.refuse = ""
    profile([image])
    assert context.count("set_device_memory") == 3
    assert graphs == []


def test_inputs_that_tensorrt_may_not_read_are_refused(
    graphs: list[Graph], patched: pytest.MonkeyPatch
) -> None:
    profile, _, _ = profile_of(Context(), patched)
    with pytest.raises(ValueError, match="must be a contiguous fp32 tensor"):
        profile([aligned(2, 3, 64, 64).double()])
    with pytest.raises(ValueError, match="multiple of 256 bytes"):
        profile([aligned(2 * 3 * 64 * 64 + 1)[1:].view(2, 3, 64, 64)])


def test_an_arena_that_cannot_grow_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    arena = Arena(torch.device("cpu"))
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
    assert arena.place()[1] == 512
    assert arena.generation > generation  # it may lie elsewhere now
