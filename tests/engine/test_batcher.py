"""The batcher: any sizes, any order, rows that share calls, and rows that are the same."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from engine.backends.fake import CHANNELS, TEXT_WIDTH, TOKENS, FakeBackend, FakeNetworks
from engine.batcher import Batcher
from engine.buffers import Buffers, gather
from engine.errors import Cancelled
from engine.rows import Flow, Row
from tests.engine.flows import LATENT, alone, asks, asks_rows, backend, drain, keyed, row

values = st.floats(-3, 3, allow_nan=False, width=32)
demands = st.lists(st.lists(st.lists(values, max_size=7), max_size=5), min_size=1, max_size=6)


@given(
    profiles=st.sets(st.integers(1, 20), min_size=1).map(lambda s: tuple(sorted(s))),
    flows=demands,
    head_start=st.lists(st.integers(0, 3), min_size=6, max_size=6),
)
def test_every_row_gets_its_own_answer(
    profiles: tuple[int, ...], flows: list[list[list[float]]], head_start: list[int]
) -> None:
    networks = FakeNetworks(denoiser_batch_sizes=profiles)
    batcher = Batcher(networks)
    jobs = []
    for groups, steps in zip(flows, head_start, strict=False):
        jobs.append(batcher.submit(asks(groups)))
        for _ in range(steps):
            batcher.step()
    drain(batcher)
    for job, groups in zip(jobs, flows, strict=True):
        wanted = [alone(value) for group in groups for value in group]
        got = job.future.result(timeout=0)
        assert len(got) == len(wanted)
        assert all(a.equal(b) for a, b in zip(got, wanted, strict=True))
        assert job.rows["unet"] == len(wanted)
    assert len(batcher._queues) == 0
    assert set(backend(networks).calls) <= set(profiles)


def test_rows_of_all_jobs_share_calls_up_to_the_largest_profile() -> None:
    networks = FakeNetworks(denoiser_batch_sizes=(1, 4, 8))
    batcher = Batcher(networks)
    jobs = [batcher.submit(asks([[i, i + 0.5, i + 0.25]])) for i in range(4)]
    drain(batcher)
    assert backend(networks).calls == [8, 4]
    assert [job.calls["unet"] for job in jobs] == [1, 1, 2, 1]
    assert batcher.calls["unet"] == 2


def test_the_smallest_profile_that_holds_the_rows_is_taken_and_the_rest_is_padding() -> None:
    networks = FakeNetworks(denoiser_batch_sizes=(1, 2, 8))
    buffers = Buffers(networks.find("unet", LATENT))
    outputs = buffers.run([row(1.0), row(2.0), row(3.0)])
    assert backend(networks).calls == [8] and buffers.padded_rows == 5
    last = outputs[2]
    assert len(outputs) == 3 and isinstance(last, Tensor) and last.equal(alone(3.0))


def test_the_oldest_row_picks_the_network() -> None:
    order: list[str] = []
    networks = FakeNetworks(fault=lambda net, batch, output: order.append(net))

    def one(net: str) -> Flow[None]:
        yield [row(1, net)]

    batcher = Batcher(networks)
    for net in ("unet", "text", "unet", "text"):
        batcher.submit(one(net))
    drain(batcher)
    assert order == ["unet", "text"]


def test_rows_of_different_shapes_never_share_a_call() -> None:
    networks = FakeNetworks()

    def two_sizes() -> Flow[list[tuple[int, ...]]]:
        wide = Row(
            "unet",
            (torch.zeros(CHANNELS, 4, 8), torch.tensor(1.0), torch.zeros(TOKENS, TEXT_WIDTH)),
        )
        out = yield [row(1.0), wide]
        return [tuple(o.shape) for o in out]

    batcher = Batcher(networks)
    job = batcher.submit(two_sizes())
    drain(batcher)
    assert job.future.result() == [LATENT, (CHANNELS, 4, 8)] and batcher.calls["unet"] == 2


def test_outputs_survive_later_calls() -> None:
    """A backend may answer in its own memory; what a flow holds was cloned out of it."""

    class Reusing(FakeBackend):
        memory = torch.zeros(1, *LATENT)

        def __call__(self, batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
            (output,) = super().__call__(batch)
            return (self.memory.copy_(output),)

    networks = FakeNetworks(denoiser_batch_sizes=(1,))
    networks.backends["unet", LATENT] = Reusing(networks.find("unet", LATENT).spec)
    batcher = Batcher(networks)
    job = batcher.submit(asks([[1.0], [2.0]]))
    drain(batcher)
    first, second = job.future.result()
    assert first.equal(alone(1.0)) and second.equal(alone(2.0))


def test_gather_pads_with_the_first_example() -> None:
    into = torch.zeros(4, 2)
    gather([torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])], into)
    assert into.tolist() == [[1, 2], [3, 4], [1, 2], [1, 2]]


def test_equal_rows_that_wait_together_run_once() -> None:
    networks = FakeNetworks(denoiser_batch_sizes=(1, 2, 4, 8))
    batcher = Batcher(networks)
    groups = [keyed(1.0, "a"), keyed(2.0, "b")], [keyed(3.0, "c")]
    jobs = [batcher.submit(asks_rows(*groups)) for _ in range(3)]
    drain(batcher)
    assert backend(networks).calls == [2, 1]
    for job in jobs:
        got = job.future.result(timeout=0)
        assert all(a.equal(alone(v)) for a, v in zip(got, (1.0, 2.0, 3.0), strict=True))
        assert job.rows["unet"] == 3 and job.calls["unet"] == 2


def test_rows_without_a_key_or_of_another_kind_are_never_the_same() -> None:
    networks = FakeNetworks(denoiser_batch_sizes=(1, 2, 4, 8))
    batcher = Batcher(networks)
    batcher.submit(asks_rows([row(1.0), row(1.0), keyed(1.0, "a")]))
    batcher.submit(asks_rows([keyed(1.0, "a", net="text"), keyed(1.0, "b")]))
    drain(batcher)
    assert backend(networks).calls == [4] and batcher.calls["text"] == 1


def test_a_row_that_came_later_is_run_again() -> None:
    networks = FakeNetworks(denoiser_batch_sizes=(1, 2))
    batcher = Batcher(networks)
    batcher.submit(asks_rows([keyed(1.0, "a")]))
    assert batcher.step()
    batcher.submit(asks_rows([keyed(1.0, "a")]))
    drain(batcher)
    assert backend(networks).calls == [1, 1]


def test_one_of_two_owners_may_leave() -> None:
    networks = FakeNetworks(denoiser_batch_sizes=(1, 2))
    batcher = Batcher(networks)
    first = batcher.submit(asks_rows([row(5.0, "text")], [keyed(1.0, "a"), keyed(2.0, "gone")]))
    second = batcher.submit(asks_rows([row(5.0, "text")], [keyed(1.0, "a")]))
    assert batcher.step() and len(batcher._queues) == 2
    first.cancel()
    drain(batcher)
    assert isinstance(first.future.exception(timeout=0), Cancelled)
    assert second.future.result(timeout=0)[1].equal(alone(1.0))
    assert backend(networks).calls == [1]  # what only the first wanted was not run
    third = batcher.submit(asks_rows([keyed(2.0, "gone")]))
    drain(batcher)
    assert third.future.result(timeout=0)[0].equal(alone(2.0))


def test_a_shared_row_that_fails_ends_all_its_owners_and_nobody_else() -> None:
    def fault(net: str, batch: Mapping[str, Tensor], output: Tensor) -> None:
        if (batch["latent"] == 13.0).any():
            raise RuntimeError("poisoned")

    batcher = Batcher(FakeNetworks(denoiser_batch_sizes=(1, 2, 4), fault=fault))
    doomed = [batcher.submit(asks_rows([keyed(13.0, "bad")])) for _ in range(2)]
    well = batcher.submit(asks_rows([keyed(1.0, "good")]))
    drain(batcher)
    assert all(str(job.future.exception(timeout=0)) == "poisoned" for job in doomed)
    assert well.future.result(timeout=0)[0].equal(alone(1.0))


@given(
    flows=st.lists(
        st.lists(st.lists(st.integers(0, 3), max_size=4), max_size=4), min_size=1, max_size=5
    ),
    gone=st.integers(0, 4),
)
def test_shared_or_not_every_row_gets_its_answer(flows: list[list[list[int]]], gone: int) -> None:
    batcher = Batcher(FakeNetworks(denoiser_batch_sizes=(1, 2, 3)))
    rows = [[[keyed(v, v if v % 2 else None) for v in group] for group in f] for f in flows]
    jobs = [batcher.submit(asks_rows(*groups)) for groups in rows]
    batcher.step()
    jobs[gone % len(jobs)].cancel()
    drain(batcher)
    for job, groups in zip(jobs, flows, strict=True):
        if job.cancelled and job.future.exception(timeout=0):
            continue
        wanted = [alone(float(v)) for group in groups for v in group]
        assert all(a.equal(b) for a, b in zip(job.future.result(timeout=0), wanted, strict=True))
    assert len(batcher._queues) == 0 and not batcher._queues._by_key
