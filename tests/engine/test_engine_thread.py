"""The engine thread: many submitters, its end, and calls that would deadlock."""

from __future__ import annotations

import contextlib
import gc
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import pytest
from torch import Tensor

from engine.backends.fake import FakeNetworks
from engine.batcher import Batcher
from engine.errors import Cancelled, EngineUnavailable
from engine.flow_handle import FlowHandle
from engine.rows import Flow
from tests.engine.flows import alone, asks, row
from tests.forking import in_child

T = TypeVar("T")


def test_many_threads_submit_to_one_engine() -> None:
    batcher = Batcher(FakeNetworks())
    batcher.start()
    results: dict[int, list[Tensor]] = {}

    def client(i: int) -> None:
        batcher.start()
        results[i] = batcher.submit(asks([[i], [i + 0.5]])).future.result(timeout=20)

    threads = [threading.Thread(target=client, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    batcher.close()
    assert sorted(results) == list(range(16))
    assert all(r[0].equal(alone(i)) and r[1].equal(alone(i + 0.5)) for i, r in results.items())


def test_closing_cancels_what_is_under_way_and_refuses_more() -> None:
    def slow(net: str, batch: Mapping[str, Tensor], output: Tensor) -> None:
        time.sleep(0.01)

    def endless() -> Flow[None]:
        while True:
            yield [row(1.0)]

    batcher = Batcher(FakeNetworks(fault=slow))
    batcher.start()
    job = batcher.submit(endless())
    time.sleep(0.05)
    batcher.close()
    with pytest.raises(Cancelled):
        job.future.result(timeout=5)
    with pytest.raises(RuntimeError, match="closed"):
        batcher.submit(asks([[1.0]]))


def endless() -> Flow[None]:
    while True:
        yield [row(1.0)]


@pytest.fixture
def batcher() -> Iterator[Batcher]:
    """A batcher with a running thread."""
    made = Batcher(FakeNetworks())
    made.start()
    yield made
    made.close()


def result(handle: FlowHandle[T]) -> T:
    return handle.future.result(timeout=20)


# -- its end ------------------------------------------------------------------------------------


def dies(net: str, batch: Mapping[str, Tensor], output: Tensor) -> None:
    raise SystemExit("from a driver")


def test_every_flow_fails_when_the_thread_dies(caplog: pytest.LogCaptureFixture) -> None:
    """Running, queued and submitted later; the log has the stack trace."""
    batcher = Batcher(FakeNetworks(denoiser_batch_sizes=(1,), fault=dies))
    handles = [batcher.submit(asks([[float(i)], [0.0]])) for i in range(3)]
    batcher.start()
    for handle in handles:
        with pytest.raises(EngineUnavailable, match=r"failed \(SystemExit: from a driver\); open"):
            result(handle)
    with pytest.raises(EngineUnavailable, match="from a driver"):
        batcher.submit(asks([[1.0]]))
    with pytest.raises(EngineUnavailable, match="from a driver"):
        batcher.check()
    assert not batcher.alive and len(batcher._queues) == 0
    assert "from a driver" in caplog.text and "Traceback" in caplog.text
    batcher.close()


@pytest.mark.parametrize("error", [MemoryError(), KeyError("a bug"), KeyboardInterrupt()])
def test_a_bug_in_the_batcher_itself_fails_every_flow(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    batcher = Batcher(FakeNetworks())

    def broken() -> None:
        raise error

    monkeypatch.setattr(batcher, "_pick", broken)
    handle = batcher.submit(endless())
    batcher.start()
    with pytest.raises(EngineUnavailable, match=type(error).__name__):
        result(handle)
    batcher.close()


def test_a_flow_or_a_callback_that_leaves_ends_its_own_flow(batcher: Batcher) -> None:
    """`sys.exit()` reaches the caller that waits, and nobody else."""

    def leaves() -> Flow[None]:
        yield [row(1.0)]
        raise SystemExit(3)

    def leave(_: object) -> None:
        raise KeyboardInterrupt

    other = batcher.submit(asks([[float(i)] for i in range(50)]))
    with pytest.raises(SystemExit):
        result(batcher.submit(leaves()))
    with pytest.raises(KeyboardInterrupt):
        result(batcher.submit(endless(), on_progress=leave))
    watched = batcher.submit(asks([[1.0], [2.0]]))
    watched.future.add_done_callback(leave)
    assert len(result(watched)) == 2
    assert len(result(other)) == 50 and batcher.alive


def test_close_may_be_called_twice_and_by_many_threads() -> None:
    closed: list[int] = []

    class Networks(FakeNetworks):
        def close(self) -> None:
            closed.append(1)
            time.sleep(0.02)  # others arrive meanwhile
            super().close()

    batcher = Batcher(Networks())
    batcher.start()
    handle = batcher.submit(endless())
    threads = [threading.Thread(target=batcher.close) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
        assert not thread.is_alive()
    batcher.close()
    assert closed == [1]
    with pytest.raises(Cancelled):
        result(handle)


def test_closing_a_batcher_that_never_started() -> None:
    batcher = Batcher(FakeNetworks())
    handle = batcher.submit(asks([[1.0]]))
    batcher.close()
    with pytest.raises(Cancelled):
        result(handle)
    batcher.start()
    assert not batcher.alive
    with pytest.raises(EngineUnavailable, match=r"closed.*open it again"):
        batcher.submit(asks([[1.0]]))


def test_whatever_is_submitted_while_the_batcher_closes_is_answered() -> None:
    """Each submit raises at once, or its future resolves."""
    for _ in range(30):
        batcher = Batcher(FakeNetworks())
        batcher.start()
        handles: list[FlowHandle[None]] = []
        barrier = threading.Barrier(4)

        def client(
            batcher: Batcher = batcher,
            barrier: threading.Barrier = barrier,
            handles: list[FlowHandle[None]] = handles,
        ) -> None:
            barrier.wait(20)
            with contextlib.suppress(EngineUnavailable):
                for _ in range(200):
                    handles.append(batcher.submit(endless()))

        threads = [threading.Thread(target=client) for _ in range(3)]
        for thread in threads:
            thread.start()
        barrier.wait(20)
        batcher.close()
        for thread in threads:
            thread.join(timeout=20)
        for handle in handles:
            assert isinstance(handle.future.exception(timeout=20), Cancelled | EngineUnavailable)


# -- calls that would deadlock ------------------------------------------------------------------


def test_waiting_on_the_engine_thread_raises_at_once(batcher: Batcher) -> None:
    raised: list[BaseException] = []

    def wait(handle: FlowHandle[Any]) -> None:
        other = batcher.submit(asks([[1.0]]))  # submitting does not wait
        for call in (other.future.result, other.future.exception, handle.future.result):
            try:
                call(timeout=20)
            except EngineUnavailable as error:
                raised.append(error)
        try:
            batcher.close()
        except EngineUnavailable as error:
            raised.append(error)
        others.append(other)

    others: list[FlowHandle[list[Tensor]]] = []
    assert len(result(batcher.submit(asks([[1.0]]), on_progress=wait))) == 1
    assert len(raised) == 4 and all("another thread" in str(error) for error in raised)
    assert len(result(others[0])) == 1 and batcher.alive


def test_a_future_that_is_resolved_may_be_read_anywhere(batcher: Batcher) -> None:
    seen: list[object] = []
    first = batcher.submit(asks([[1.0]]))
    result(first)
    second = batcher.submit(
        asks([[1.0]]), on_progress=lambda _: seen.append(first.future.result(timeout=20))
    )
    result(second)
    assert len(seen) == 1
    assert in_child(lambda: len(first.future.result(timeout=20))) == "1"


@pytest.mark.parametrize("name", ["submit", "result", "exception", "check"])
def test_a_forked_child_raises_at_once_after_use_in_the_parent(batcher: Batcher, name: str) -> None:
    handle = batcher.submit(endless())
    calls: dict[str, Callable[[], object]] = {
        "submit": lambda: batcher.submit(asks([[1.0]])),
        "result": handle.future.result,
        "exception": handle.future.exception,
        "check": batcher.check,
    }
    assert re.match("EngineUnavailable: .*forked.*'spawn'", in_child(calls[name]))


def test_a_forked_child_leaves_the_parents_networks_alone(batcher: Batcher) -> None:
    def close() -> bool:
        batcher.start()
        batcher.close()
        gc.collect()
        return batcher.alive

    handle = batcher.submit(endless())
    assert in_child(close) == "False"
    assert not handle.done and len(result(batcher.submit(asks([[1.0]])))) == 1


def test_a_batcher_may_be_used_first_in_a_forked_child() -> None:
    batcher = Batcher(FakeNetworks())

    def use() -> int:
        batcher.start()
        return len(result(batcher.submit(asks([[1.0], [2.0]]))))

    assert in_child(use) == "2"
    assert use() == 2
    batcher.close()


def test_the_interpreter_exits_while_flows_run() -> None:
    code = (
        "from engine.backends.fake import FakeNetworks\n"
        "from engine.batcher import Batcher\n"
        "from tests.engine.test_engine_thread import endless\n"
        "batcher = Batcher(FakeNetworks())\n"
        "batcher.start()\n"
        "handles = [batcher.submit(endless()) for _ in range(3)]\n"
        "while handles[0].rows['unet'] < 20: pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
