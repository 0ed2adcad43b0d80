"""Device time: what the batcher does while calls are launched and not finished.

The device is simulated (`FakeDevice`): a call returns at once and is finished 1 s + 0.1 s a row
later. `in_flight=10**9` is a host that runs ahead without limit, as the batcher once did.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from torch import Tensor

from engine.backends.fake import FakeNetworks
from engine.backends.fake_device import FakeDevice
from engine.batcher import Batcher
from engine.errors import Cancelled, EngineUnavailable
from engine.flow_handle import FlowHandle
from engine.rows import Flow
from tests.engine.flows import asks, drain, row
from tests.waiting import eventually

UNLIMITED = 10**9
LATE = 99.0


def cost(net: str, rows: int) -> float:
    return 1.0 + 0.1 * rows


class Simulation:
    """A batcher on a simulated device that runs exactly the rows that share a call.

    `late` has the rows of each call that has a row of the value `LATE`.
    """

    def __init__(self, in_flight: int, seconds: Callable[[str, int], float] = cost) -> None:
        self.device = FakeDevice(seconds, in_flight=in_flight)
        self.late: list[int] = []
        sizes = tuple(range(1, 21))
        self.networks = FakeNetworks(
            denoiser_batch_sizes=sizes, fault=self._watch, clock=self.device
        )
        self.batcher = Batcher(self.networks)

    def _watch(self, net: str, batch: Mapping[str, Tensor], output: Tensor) -> None:
        if (batch["timestep"] == LATE).any():
            self.late.append(len(output))

    def submit(self, value: float, groups: int, **options: Any) -> FlowHandle[list[Tensor]]:
        """A flow of `groups` steps with two rows each, as decoding with guidance."""
        return self.batcher.submit(asks([[value, value]] * groups), **options)


def late_request(in_flight: int) -> tuple[float, float]:
    """(rows a call, seconds until its result) of a request that arrives while seven others run."""
    simulation = Simulation(in_flight)
    for value in range(7):
        simulation.submit(value, 50)
    seconds: list[float] = []

    def arrive() -> None:
        handle = simulation.submit(LATE, 10)
        handle.future.add_done_callback(lambda _: seconds.append(simulation.device.now - 30.0))

    simulation.device.at(30.0, arrive)
    drain(simulation.batcher)
    return sum(simulation.late) / len(simulation.late), seconds[0]


def test_a_request_that_arrives_in_the_middle_shares_calls_at_once() -> None:
    before, after = late_request(UNLIMITED), late_request(2)
    print(f"rows a call, seconds to the result: before {before}, now {after}")
    assert (before[0], after[0]) == (2.0, 16.0)
    assert before[1] == pytest.approx(50 * cost("", 14) - 30 + 10 * cost("", 2))
    assert after[1] < 12 * cost("", 16)  # its ten calls, and at most two that were launched


def calls_after_cancel(in_flight: int) -> int:
    """How many calls with rows of a cancelled flow finish after `cancel`."""
    simulation = Simulation(in_flight)
    handle = simulation.submit(1.0, 100)
    simulation.device.at(30.0, handle.cancel)
    drain(simulation.batcher)
    with pytest.raises(Cancelled):
        handle.future.result(timeout=0)
    return sum(finished > 30.0 for _, _, finished in simulation.device.calls)


def test_a_cancelled_request_leaves_the_device_after_two_calls() -> None:
    before, after = calls_after_cancel(UNLIMITED), calls_after_cancel(2)
    print(f"calls that finish after a cancel: before {before}, now {after}")
    assert (before, after) == (75, 2)


@pytest.mark.parametrize("in_flight", [1, 2, 3, UNLIMITED])
def test_no_more_calls_are_launched_than_the_device_should_have(in_flight: int) -> None:
    simulation = Simulation(in_flight)
    waiting: list[int] = []
    inner = simulation.device.launch

    def launch(net: str, rows: int) -> None:
        inner(net, rows)
        calls = simulation.device.calls
        waiting.append(sum(finished > simulation.device.now for _, _, finished in calls))

    simulation.device.launch = launch  # type: ignore[method-assign]
    simulation.submit(1.0, 20)
    drain(simulation.batcher)
    assert max(waiting) == min(in_flight, 20)


def test_the_device_never_waits_for_the_host() -> None:
    simulation = Simulation(2)
    simulation.submit(1.0, 20)
    drain(simulation.batcher)
    assert simulation.device.now == pytest.approx(20 * cost("", 2))


def test_progress_and_results_follow_the_device() -> None:
    simulation = Simulation(2)
    seen: list[tuple[float, int, int]] = []
    done: list[float] = []

    def report(handle: FlowHandle[Any]) -> None:
        seen.append((simulation.device.now, handle.rows["unet"], handle.calls["unet"]))

    handle = simulation.submit(1.0, 4, on_progress=report)
    handle.future.add_done_callback(lambda _: done.append(simulation.device.now))
    drain(simulation.batcher)
    call = cost("", 2)
    assert [counts for _, *counts in seen] == [[2 * n, n] for n in range(1, 5)]
    assert [now for now, *_ in seen] == pytest.approx([n * call for n in range(1, 5)])
    assert done == pytest.approx([4 * call])


def test_a_flow_that_needs_no_call_is_answered() -> None:
    simulation = Simulation(2)
    simulation.submit(1.0, 3)
    empty = simulation.submit(2.0, 0)
    drain(simulation.batcher)
    assert empty.future.result(timeout=0) == []


def test_a_flow_that_fails_after_its_calls_were_launched_reports_no_more() -> None:
    simulation = Simulation(2)
    seen: list[int] = []

    def breaks() -> Flow[None]:
        yield [row(1.0)]
        yield [row(1.0)]
        raise ValueError("broken flow")

    handle = simulation.batcher.submit(breaks(), on_progress=lambda h: seen.append(h.rows["unet"]))
    other = simulation.submit(2.0, 5)
    drain(simulation.batcher)
    with pytest.raises(ValueError, match="broken flow"):
        handle.future.result(timeout=0)
    assert seen == []
    assert len(other.future.result(timeout=0)) == 10


def test_a_progress_callback_that_cancels_or_raises_ends_its_own_flow() -> None:
    simulation = Simulation(2)

    def cancel(handle: FlowHandle[Any]) -> None:
        handle.cancel()

    def leave(handle: FlowHandle[Any]) -> None:
        raise SystemExit(3)

    cancelled = simulation.submit(1.0, 50, on_progress=cancel)
    left = simulation.submit(2.0, 50, on_progress=leave)
    other = simulation.submit(3.0, 5)
    drain(simulation.batcher)
    assert isinstance(cancelled.future.exception(timeout=0), Cancelled)
    assert isinstance(left.future.exception(timeout=0), SystemExit)
    assert len(other.future.result(timeout=0)) == 10
    assert len(simulation.device.calls) == 5


# -- a device that fails ------------------------------------------------------------------------


def test_an_error_that_arrives_later_fails_every_request_and_stops_the_engine() -> None:
    simulation = Simulation(2)
    lost = RuntimeError("CUDA error: an illegal memory access was encountered\nmore lines")
    simulation.device.at(5.0, lambda: simulation.device.fail(lost))
    running = [simulation.submit(float(i), 50) for i in range(3)]
    simulation.batcher.start()
    for handle in running:
        with pytest.raises(EngineUnavailable, match=r"illegal memory access.*; open"):
            handle.future.result(timeout=20)
    with pytest.raises(EngineUnavailable, match="illegal memory access") as refused:
        simulation.submit(1.0, 1)
    assert "more lines" not in str(refused.value)
    assert not simulation.batcher.alive
    simulation.batcher.close()


def test_a_device_that_never_finishes_is_seen_by_the_watchdog() -> None:
    """The calls were launched; `busy_seconds` counts while none of them finishes."""
    durations = iter([1.0, 1.0, math.inf, 1.0])
    simulation = Simulation(2, lambda net, rows: next(durations))
    handle = simulation.submit(1.0, 50)
    simulation.batcher.start()
    assert eventually(lambda: simulation.batcher.busy_seconds > 0.2)
    assert (simulation.batcher.alive, handle.done) == (True, False)
    assert (handle.rows["unet"], len(simulation.device.calls)) == (4, 4)
    simulation.device.fail(RuntimeError("the device was reset"))
    with pytest.raises(EngineUnavailable, match="the device was reset"):
        handle.future.result(timeout=20)
    assert simulation.batcher.busy_seconds == 0.0 and not simulation.batcher.alive
    simulation.batcher.close()
