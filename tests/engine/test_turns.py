"""Groups of flows share the device: one that floods it slows another by no more than its share.

The device is simulated. Edits are those of the serving benchmark: a mask of two noises, eight
guided steps, and one call of the decoder. `SHARED` puts everything into one group, as the batcher
once did.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import pytest
import torch

from engine.backends.fake import FakeNetworks
from engine.backends.fake_device import FakeDevice
from engine.batcher import Batcher
from engine.call_times import CallTimes
from engine.flow_handle import FlowHandle
from engine.rows import Flow, Row
from engine.turns import Turns
from tests.engine.flows import LATENT, asks_rows, drain, row

SIZES = (1, 2, 4, 8, 16, 20)
FLOODERS, EDITS = 7, 20
SHARED: Hashable = "all"
Law = Callable[[str, int], float]


def constant(net: str, rows: int) -> float:
    """A device that no call fills."""
    return 1.0


def linear(net: str, rows: int) -> float:
    """A device that one row fills, as a processor."""
    return (4.0 if net == "vae_decode" else 1.0) * rows


def rising(net: str, rows: int) -> float:
    """A device that four rows fill."""
    return max(1.0, rows / 4)


LAWS = [constant, linear, rising]


def edit(noises: int = 2) -> Flow[Any]:
    decode = Row("vae_decode", (torch.zeros(LATENT),))
    return asks_rows([row(1.0)] * 2 * noises, *[[row(1.0), row(1.0)]] * 8, [decode])


def steps(count: int) -> Flow[Any]:
    return asks_rows(*[[row(1.0), row(1.0)]] * count)


class Load:
    """Edits of one group, one after another, while others flood the device."""

    def __init__(self, law: Law, in_flight: int) -> None:
        self.device = FakeDevice(law, in_flight=in_flight)
        self.batcher = Batcher(FakeNetworks(denoiser_batch_sizes=SIZES, clock=self.device))
        for net, sizes in (("unet", SIZES), ("vae_decode", (1, 2, 4))):
            for size in sizes:  # as warm-up does
                self.batcher.network_calls.times.observe((net, LATENT), size, law(net, size))
        self.waited: list[float] = []
        self.flooded = 0

    def flood(self, group: Hashable, noises: int) -> None:
        def again(_: object) -> None:
            self.flooded += 1
            if len(self.waited) < EDITS:
                self.batcher.submit(edit(noises), group=group).future.add_done_callback(again)

        for number in range(FLOODERS):
            self.device.at(3.0 * number, lambda: again(None))

    def quiet(self, group: Hashable) -> None:
        def next_edit() -> None:
            began = self.device.now
            handle: FlowHandle[Any] = self.batcher.submit(edit(), group=group)

            def done(_: object) -> None:
                self.waited.append(self.device.now - began)
                if len(self.waited) < EDITS:
                    self.device.at(self.device.now + 0.7 + 0.1 * len(self.waited), next_edit)

            handle.future.add_done_callback(done)

        self.device.at(50.0, next_edit)

    def run(self) -> None:
        drain(self.batcher)
        while len(self.waited) < EDITS:  # nothing runs until the next edit is submitted
            self.device.wait_until(self.device.now + 1.0)
            drain(self.batcher)


def p95(law: Law, in_flight: int, flooder: Hashable = None, noises: int = 2) -> float:
    """Of the quiet group's edits; alone without a flooder."""
    load = Load(law, in_flight)
    if flooder is not None:
        load.flood(flooder, noises)
    load.quiet(SHARED)
    load.run()
    if flooder is not None:
        assert load.flooded > FLOODERS, "the flood is served as well"
    return float(np.percentile(load.waited, 95))


@pytest.mark.parametrize("noises", [2, 10])
@pytest.mark.parametrize("in_flight", [1, 2])
@pytest.mark.parametrize("law", LAWS)
def test_a_flood_slows_another_group_by_its_share(law: Law, in_flight: int, noises: int) -> None:
    """Twice as long, and the longest calls that were launched before the edit came."""
    alone = p95(law, in_flight)
    before, after = p95(law, in_flight, SHARED, noises), p95(law, in_flight, "flood", noises)
    print(f"{law.__name__}, {in_flight} in flight: {before / alone:.2f}, now {after / alone:.2f}")
    longest = max(law("unet", SIZES[-1]), law("vae_decode", 4))
    bound = 2 * alone + in_flight * longest
    assert after <= bound
    if law is constant:  # all steps fit into the same calls
        assert after < 1.4 * alone < before
    else:
        assert before > bound


@pytest.mark.parametrize("law", [linear, rising])
def test_groups_that_are_always_busy_get_half_of_the_device_each(law: Law) -> None:
    """Although one has three times as many edits, and their rows share calls."""
    load = Load(law, in_flight=1)
    few = [load.batcher.submit(steps(60), group="few") for _ in range(4)]
    for _ in range(12):
        load.batcher.submit(steps(200), group="many")
    while not any(handle.done for handle in few):
        load.batcher.step()
    used = load.batcher._turns._seconds
    finished = load.device.calls[: -len(load.batcher._in_flight)]
    total = sum(law(net, rows) for net, rows, _ in finished)
    assert used["few"] + used["many"] == pytest.approx(total)
    assert used["few"] == pytest.approx(used["many"], rel=0.05)


def test_one_group_is_served_as_without_groups() -> None:
    calls = []
    for group in (None, "a"):
        load = Load(rising, in_flight=2)
        for _ in range(5):
            load.batcher.submit(edit(), group=group)
        drain(load.batcher)
        calls.append(load.device.calls)
    assert calls[0] == calls[1]


def test_rows_of_several_groups_run_once() -> None:
    load = Load(constant, in_flight=1)
    same = [row(1.0)._replace(key="same")]
    handles = [load.batcher.submit(asks_rows(same), group=group) for group in "abc"]
    load.batcher.submit(asks_rows([row(2.0)]), group="d")
    drain(load.batcher)
    assert all(handle.done for handle in handles)
    assert [rows for _, rows, _ in load.device.calls] == [2]


def test_a_group_gains_nothing_by_leaving() -> None:
    turns = Turns()
    turns.enter("stays")
    turns.enter("leaves")
    turns.charge({"stays": 1, "leaves": 3}, 8.0)
    assert turns.order(["leaves", "stays"]) == ["stays", "leaves"]
    turns.leave("leaves")
    turns.enter("leaves")
    assert turns.order(["leaves", "stays"]) == ["stays", "leaves"]
    turns.take("stays")
    turns.charge({"stays": 1}, 5.0)
    assert turns.order(["leaves", "stays"]) == ["leaves", "stays"]
    turns.take("leaves")
    turns.enter("new")  # no credit for the time before
    assert turns.order(["leaves", "new", "stays"])[0] == "new"
    turns.charge({"new": 1}, 1.5)
    assert turns.order(["leaves", "new", "stays"]) == ["leaves", "stays", "new"]


def test_the_times_of_groups_that_left_are_forgotten() -> None:
    turns = Turns()
    for number in range(100):
        turns.enter(number)
        turns.take(number)
        turns.charge({number: 1}, 1.0)
        turns.leave(number)
    assert not turns._seconds and not turns._last


def test_a_call_is_not_larger_than_its_times_allow() -> None:
    times, kind = CallTimes(), ("unet", (4, 8, 8))
    assert times.largest(kind, SIZES, 2, 2) == 20, "nothing is known"
    for size, seconds in ((1, 1.0), (4, 1.2), (20, 6.0)):
        times.observe(kind, size, seconds)
    assert times.largest(kind, SIZES, 2, 2) == 4  # 8 takes 2.4 by interpolation, 2 takes 1.07
    assert times.largest(kind, SIZES, 2, 3) == 8
    assert times.largest(kind, SIZES, 20, 2) == 20
    assert times.largest(kind, SIZES, 3, 1) == 4, "those of the group itself always run"
    for _ in range(50):
        times.observe(kind, 20, 1.5)
    assert times.largest(kind, SIZES, 2, 2) == 20, "the newest calls count most"
