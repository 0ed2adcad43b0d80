"""What an edit costs in rows and in reads of the device, and how it fails."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from engine.backends.fake import FakeNetworks
from engine.batcher import Batcher
from engine.errors import NonFiniteError
from tests.algorithm.flow_tools import (
    FIFTY,
    TEN,
    drain,
    edit_flow,
    new_caches,
    new_inputs,
    poison,
    run_edit,
    some_mask,
    tokens,
)


class Counted:
    """Rows counted inside the networks themselves, padding left out by profiles of every size."""

    def __init__(self) -> None:
        self.networks = FakeNetworks(denoiser_batch_sizes=tuple(range(1, 21)))

    def rows(self, net: str) -> int:
        return sum(sum(b.calls) for (n, _), b in self.networks.backends.items() if n == net)

    def calls(self, net: str) -> int:
        return sum(len(b.calls) for (n, _), b in self.networks.backends.items() if n == net)


def test_a_default_edit_costs_140_rows_and_the_next_one_100() -> None:
    counted, caches = Counted(), new_caches()
    _, job = run_edit(counted.networks, new_inputs(), FIFTY, caches)
    assert counted.rows("unet") == 140 and counted.calls("unet") <= 82
    assert counted.calls("vae_encode") == counted.calls("vae_decode") == counted.calls("text") == 1
    assert job.rows["text"] <= 3 and job.rows["unet"] == 140 and job.calls["unet"] == 81
    _, job = run_edit(counted.networks, new_inputs(target=tokens(50)), FIFTY, caches)
    assert counted.rows("unet") == 240 and job.rows["unet"] == 100
    assert counted.calls("vae_encode") == 1 and job.rows["text"] == 1


def test_guidance_one_needs_one_row_a_step() -> None:
    inputs = new_inputs(guidance_scale=1, user_mask=some_mask())
    _, job = run_edit(FakeNetworks(), inputs, FIFTY)
    assert job.rows["unet"] == 80


def test_a_shallower_trajectory_is_a_prefix_and_a_deeper_one_goes_on() -> None:
    caches, networks = new_caches(), FakeNetworks()
    for strength, rows in ((0.5, 5), (0.3, 0), (0.9, 4)):
        inputs = new_inputs(strength=strength, user_mask=some_mask())
        edited, job = run_edit(networks, inputs, TEN, caches)
        fresh, _ = run_edit(networks, inputs, TEN)
        assert edited.latents.equal(fresh.latents)
        assert job.rows["unet"] == rows + 2 * round(10 * strength)


class _Reads(TorchDispatchMode):
    """Counts device values read by the host."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            self.count += 1
        return func(*args, **(kwargs or {}))


def test_an_edit_reads_the_device_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """`tolist` is one transfer however long the tensor; item, bool, float, int count one each."""
    lists: list[torch.Tensor] = []
    original = torch.Tensor.tolist

    def counted(tensor: torch.Tensor) -> Any:
        lists.append(tensor)
        return original(tensor)

    monkeypatch.setattr(torch.Tensor, "tolist", counted)
    networks, inputs = FakeNetworks(), new_inputs()
    flow = edit_flow(inputs, TEN, new_caches())
    batcher = Batcher(networks)
    with _Reads() as reads:
        job = batcher.submit(flow)
        drain(batcher)
    assert job.future.result().mask.any()
    assert len(lists) == 2 and reads.count <= sum(t.numel() for t in lists)


# -- failures -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("net", "after", "stage"),
    [
        ("text", 0, "mask"),
        ("vae_encode", 0, "mask"),
        ("unet", 0, "mask"),
        ("unet", 1, "encode"),
        ("unet", 9, "decode"),
        ("vae_decode", 0, "decode"),
    ],
)
def test_what_is_not_finite_names_network_and_stage(net: str, after: int, stage: str) -> None:
    caches = new_caches()
    with pytest.raises(NonFiniteError) as caught:
        run_edit(FakeNetworks(fault=poison(net, after)), new_inputs(), TEN, caches)
    assert (caught.value.network, caught.value.stage) == (net, stage)
    for cache in (caches.trajectories, caches.conditioning):
        for kept in cache._entries.values():
            assert all(x.isfinite().all() for x in kept), "what is broken was kept"
