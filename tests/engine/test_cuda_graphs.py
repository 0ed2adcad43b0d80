"""CUDA graphs: warm-up, capture, replay, and their number, on a substitute for `torch.cuda`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from engine.cuda import ExecutionStream
from engine.cuda_graphs import Call, CudaGraphs, capture
from engine.errors import EngineMismatch
from tests.engine.fake_cuda import FakeCuda

CPU = torch.device("cpu")
SECOND_GPU = torch.device("cuda", 1)
POOL = (0, 1)
RUNNING = ["own waits for caller", "kernel on own", "caller waits for own"]
REPLAY = ["own waits for caller", "replay on own", "caller waits for own"]


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    fake.install(monkeypatch)
    return fake


def graphs(limit: int = 8, device: torch.device = CPU) -> CudaGraphs[str]:
    return CudaGraphs(ExecutionStream(device), limit)


def unet(batch: int = 2) -> Call:
    return Call("unet", (4, 8, 8), batch)


def kernel(cuda: FakeCuda, result: str = "output") -> Callable[[], str]:
    def enqueue() -> str:
        cuda.record("kernel")
        return result

    return enqueue


def test_a_capture_records_on_the_execution_stream(cuda: FakeCuda) -> None:
    graph: Any
    graph, result = capture(ExecutionStream(CPU), kernel(cuda), POOL)
    assert cuda.log == [
        "synchronize",
        "capture_begin thread_local on own",
        "kernel on own",
        "capture_end on own",
    ]
    assert (result, [graph]) == ("output", cuda.graphs)
    assert graph.pool == POOL
    assert cuda.current is cuda.caller


@pytest.mark.parametrize("failure", ["capture_begin", "kernel", "capture_end"])
def test_a_failed_capture_restores_the_stream_and_leaves_the_pool(
    cuda: FakeCuda, failure: str
) -> None:
    """An allocator that still waits for the end of a capture returns no memory to the GPU."""
    cuda.fail = failure
    with pytest.raises(RuntimeError, match=f"{failure} is not permitted"):
        capture(ExecutionStream(SECOND_GPU), kernel(cuda), POOL)
    assert cuda.current is cuda.caller
    assert cuda.gpu == 0
    ended = any("capture_end" in event for event in cuda.log)
    assert ended == (failure != "capture_begin")
    assert cuda.log[-2:] == ["_cuda_endAllocateToPool 1", "_cuda_releasePool 1"]


def test_a_failed_capture_reports_the_error_of_the_call(cuda: FakeCuda) -> None:
    """Ending an invalid capture fails as well; that error is not the cause."""
    cuda.fail = "capture_end"

    def refuse() -> None:
        raise RuntimeError("the kernel cannot be captured")

    with pytest.raises(RuntimeError, match="the kernel cannot be captured"):
        capture(ExecutionStream(CPU), refuse, POOL)


def test_the_first_run_warms_up_the_second_captures_and_later_ones_replay(cuda: FakeCuda) -> None:
    calls = graphs()
    for expected in (RUNNING, None, REPLAY, REPLAY):
        cuda.log.clear()
        assert calls.run(unet(), (1, 2), kernel(cuda)) == "output"
        assert expected is None or cuda.log == expected
    (graph,) = cuda.graphs
    assert (graph.replays, graph.pool) == (3, POOL)


def test_the_result_is_that_of_the_capture(cuda: FakeCuda) -> None:
    """A replay writes into the memory of the captured call, whatever is passed later."""
    calls = graphs()
    results = [calls.run(unet(), (1,), kernel(cuda, name)) for name in ("a", "b", "c")]
    assert results == ["a", "b", "b"]


def test_new_addresses_start_again(cuda: FakeCuda) -> None:
    calls = graphs()
    for address in (1, 1, 1, 2, 2, 2):
        calls.run(unet(), (address,), kernel(cuda))
    assert [graph.replays for graph in cuda.graphs] == [2, 2]


def test_everything_runs_on_the_second_gpu(cuda: FakeCuda) -> None:
    """The substitute refuses work whose stream is not that of the current GPU."""
    calls = graphs(device=SECOND_GPU)
    for _ in range(3):
        calls.run(unet(), (1,), kernel(cuda))
    assert cuda.log[:3] == [
        "own of gpu 1 waits for caller of gpu 1",
        "kernel on own of gpu 1",
        "caller of gpu 1 waits for own of gpu 1",
    ]
    assert cuda.log.count("replay on own of gpu 1") == 2
    assert (cuda.gpu, cuda.current) == (0, cuda.caller)


def test_the_least_recently_used_graph_is_dropped(cuda: FakeCuda) -> None:
    calls = graphs(limit=2)

    def run(batch: int) -> bool:
        before = len(cuda.graphs)
        calls.run(unet(batch), (1,), kernel(cuda))
        return len(cuda.graphs) > before

    assert [run(b) for b in (1, 1, 2, 2)] == [False, True, False, True]
    assert not run(1)  # a replay: now the graph of 2 rows is the older one
    assert [run(b) for b in (4, 4, 1)] == [False, True, False]
    assert [run(2), run(2)] == [False, True], "its graph was dropped, and captured again"


def test_a_graph_that_did_not_fit_is_not_tried_again(
    cuda: FakeCuda, caplog: pytest.LogCaptureFixture
) -> None:
    cuda.fail, cuda.error = "capture_end", torch.OutOfMemoryError
    calls = graphs()
    for _ in range(4):
        assert calls.run(unet(), (1,), kernel(cuda)) == "output"
    assert sum("capture_begin" in event for event in cuda.log) == 1
    assert calls.run(unet(), (2,), kernel(cuda)) == "output"  # not at other addresses either
    assert calls.run(unet(), (2,), kernel(cuda)) == "output"
    assert sum("capture_begin" in event for event in cuda.log) == 1
    assert [m.split(";")[0] for m in caplog.messages] == [
        "No CUDA graph for unet at batch 2 (its graph does not fit into memory)"
    ]
    cuda.fail = ""
    calls.run(unet(1), (1,), kernel(cuda))
    calls.run(unet(1), (1,), kernel(cuda))
    assert len(cuda.graphs) == 1, "other batch sizes are still captured"


def test_a_call_that_cannot_be_captured_runs_without_a_graph(
    cuda: FakeCuda, caplog: pytest.LogCaptureFixture
) -> None:
    cuda.fail = "capture_end"
    calls = graphs()
    calls.run(unet(), (1,), kernel(cuda))
    calls.run(unet(), (1,), kernel(cuda))
    assert "No CUDA graph for unet at batch 2 (capture_end is not permitted)" in caplog.text
    assert "stack trace" not in caplog.text
    cuda.log.clear()
    calls.run(unet(), (1,), kernel(cuda))
    assert cuda.log == RUNNING


def test_an_engine_that_fails_during_the_capture_is_run_without_a_graph(cuda: FakeCuda) -> None:
    calls = graphs()
    calls.run(unet(), (1,), kernel(cuda))

    def enqueue() -> str:
        if cuda.capturing:
            raise EngineMismatch("the call could not be enqueued")
        return "output"

    assert calls.run(unet(), (1,), enqueue) == "output"


def test_an_error_of_the_first_run_is_raised_and_not_remembered(cuda: FakeCuda) -> None:
    calls = graphs()
    cuda.fail, cuda.error = "kernel", torch.OutOfMemoryError
    with pytest.raises(torch.OutOfMemoryError):
        calls.run(unet(), (1,), kernel(cuda))
    cuda.fail = ""
    calls.run(unet(), (1,), kernel(cuda))
    assert cuda.graphs == []


def test_without_graphs_every_run_is_enqueued_on_the_stream(cuda: FakeCuda) -> None:
    calls = graphs(limit=0)
    for _ in range(3):
        calls.run(unet(), (1,), kernel(cuda))
    assert cuda.log == RUNNING * 3
