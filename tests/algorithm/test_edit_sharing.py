"""Edits that share calls and trajectories give the results that each gives alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffedit.algorithm.inputs import EditInputs, EditOutputs
from diffedit.algorithm.schedule import Schedule
from engine.backends.fake import FakeNetworks
from engine.backends.torch.networks import TorchNetworks
from engine.batcher import Batcher
from engine.checkpoint import Checkpoint
from engine.errors import NonFiniteError
from tests.algorithm.flow_tools import (
    TEN,
    drain,
    edit_flow,
    new_caches,
    new_inputs,
    poison,
    run_edit,
    tokens,
)


def edits(networks: Any, many_inputs: list[EditInputs], schedule: Schedule) -> list[EditOutputs]:
    batcher = Batcher(networks)
    jobs = [batcher.submit(edit_flow(inputs, schedule, new_caches())) for inputs in many_inputs]
    drain(batcher)
    return [job.future.result(timeout=0) for job in jobs]


def unpadded() -> FakeNetworks:
    """Every batch size is a profile, so that calls count rows."""
    return FakeNetworks(denoiser_batch_sizes=tuple(range(1, 21)))


def rows_run(networks: FakeNetworks, net: str) -> int:
    return sum(sum(b.calls) for (name, _), b in networks.backends.items() if name == net)


@pytest.mark.parametrize("head_start", [0, 1, 2, 3, 5, 9, 12])
def test_edits_of_one_image_under_way_together_encode_it_once(head_start: int) -> None:
    """However far the first has come when the second begins; and the results are those alone."""
    first = new_inputs(num_maps_per_mask=2, strength=0.6)
    second = new_inputs(num_maps_per_mask=2, strength=0.9, target=tokens(40))
    networks, caches = unpadded(), new_caches()
    batcher = Batcher(networks)
    jobs = [batcher.submit(edit_flow(first, TEN, caches))]
    for _ in range(head_start):
        batcher.step()
    jobs.append(batcher.submit(edit_flow(second, TEN, caches)))
    drain(batcher)
    assert rows_run(networks, "vae_encode") == 1
    assert rows_run(networks, "unet") == (4 + 12) + (4 + 18) + 9
    for job, inputs in zip(jobs, (first, second), strict=True):
        alone, _ = run_edit(FakeNetworks(), inputs, TEN)
        assert job.future.result(timeout=0).latents.equal(alone.latents)
    assert len(caches.trajectories.get((first.image_key, TEN, 1)) or ()) == 10
    assert not caches.active


def test_a_cancelled_edit_leaves_the_other_its_trajectory() -> None:
    inputs = new_inputs(num_maps_per_mask=2)
    other = new_inputs(num_maps_per_mask=2, target=tokens(40))
    networks, caches = unpadded(), new_caches()
    batcher = Batcher(networks)
    gone, stays = (batcher.submit(edit_flow(t, TEN, caches)) for t in (inputs, other))
    for _ in range(6):
        batcher.step()
    gone.cancel()
    drain(batcher)
    alone, _ = run_edit(FakeNetworks(), other, TEN)
    assert stays.future.result(timeout=0).latents.equal(alone.latents)
    assert rows_run(networks, "vae_encode") == 1 and not caches.active


def test_what_is_broken_is_not_handed_on() -> None:
    """A trajectory that failed is forgotten with the edits that worked on it."""
    networks, caches = FakeNetworks(fault=poison("unet", 3)), new_caches()
    batcher = Batcher(networks)
    jobs = [
        batcher.submit(edit_flow(new_inputs(num_maps_per_mask=2, target=tokens(t)), TEN, caches))
        for t in (30, 40)
    ]
    drain(batcher)
    assert all(isinstance(job.future.exception(timeout=0), NonFiniteError) for job in jobs)
    del jobs
    assert not caches.active
    for kept in caches.trajectories._entries.values():
        assert all(x.isfinite().all() for x in kept)


def mixed_inputs(side: int, factor: int) -> Iterator[EditInputs]:
    yield new_inputs(side, factor, image_seed=1, num_maps_per_mask=3)
    yield new_inputs(
        side, factor, image_seed=2, strength=0.3, guidance_scale=1, num_maps_per_mask=2
    )
    yield new_inputs(side, factor, image_seed=3, method="sdedit", seed=9, target=tokens(33))
    yield new_inputs(side, factor, image_seed=1, method="masked-sdedit", num_maps_per_mask=4)


def test_pinned_results_do_not_depend_on_company(tiny: Path) -> None:
    checkpoint = Checkpoint.open(tiny)
    pinned = TorchNetworks.open(checkpoint, dtype="fp32", device="cpu", pin_batch_size=4)
    many_inputs = list(mixed_inputs(16, 4))
    together = edits(pinned, many_inputs, TEN)
    for inputs, shared in zip(many_inputs, together, strict=True):
        (alone,) = edits(pinned, [inputs], TEN)
        assert alone.mask.equal(shared.mask)
        assert alone.latents.equal(shared.latents), "equal to the bit"
        assert alone.image is not None and shared.image is not None
        assert alone.image.equal(shared.image)


def test_unpinned_results_hardly_depend_on_company(real: TorchNetworks) -> None:
    many_inputs = list(mixed_inputs(16, 4))
    for inputs, shared in zip(many_inputs, edits(real, many_inputs, TEN), strict=True):
        (alone,) = edits(real, [inputs], TEN)
        assert alone.mask.equal(shared.mask)
        torch.testing.assert_close(alone.latents, shared.latents, atol=1e-3, rtol=1e-3)


@settings(max_examples=20)
@given(
    profiles=st.sets(st.integers(1, 24), min_size=1).map(lambda s: tuple(sorted(s))),
    order=st.permutations(range(4)),
)
def test_any_profiles_and_any_order_give_the_same_edits(
    profiles: tuple[int, ...], order: list[int]
) -> None:
    many_inputs = list(mixed_inputs(8, 8))
    expected = [edits(FakeNetworks(), [inputs], TEN)[0].latents for inputs in many_inputs]
    shuffled = edits(
        FakeNetworks(denoiser_batch_sizes=profiles), [many_inputs[i] for i in order], TEN
    )
    for place, i in enumerate(order):
        assert shuffled[place].latents.equal(expected[i])
