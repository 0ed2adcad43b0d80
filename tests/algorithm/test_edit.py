"""What must hold of an edit: the invariants of the paper, and equality with the reference path."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from diffedit.algorithm import edit as flows
from diffedit.algorithm import reference
from diffedit.algorithm.inputs import EditInputs, EditOutputs
from diffedit.algorithm.schedule import Schedule
from engine.backends.fake import FakeNetworks
from engine.backends.torch.networks import TorchNetworks
from engine.batcher import Batcher
from engine.checkpoint import Checkpoint
from engine.errors import NonFiniteError
from tests.algorithm.flow_tools import (
    SD_CONFIG,
    drain,
    edit_flow,
    encode_flow,
    new_caches,
    new_inputs,
    run,
    run_edit,
    tokens,
)

TEN = Schedule.from_config(SD_CONFIG, 10)
FIFTY = Schedule.from_config(SD_CONFIG, 50)


def some_mask(side: int = 8) -> torch.Tensor:
    mask = torch.zeros(side, side, dtype=torch.bool)
    mask[2:5, 1:6] = True
    return mask


@pytest.fixture(scope="module")
def real(tiny: Path) -> TorchNetworks:
    return TorchNetworks.open(Checkpoint.open(tiny), dtype="fp32", device="cpu")


@pytest.fixture(scope="module")
def real_v(tiny_v: Path) -> TorchNetworks:
    return TorchNetworks.open(Checkpoint.open(tiny_v), dtype="fp32", device="cpu")


def by_reference(
    networks: TorchNetworks, inputs: EditInputs, schedule: Schedule
) -> reference.Reference:
    ids = {n: torch.tensor([getattr(inputs, n)]) for n in ("source", "target", "negative", "empty")}
    modules = networks.modules
    return reference.edit(
        modules["unet"],
        modules["vae"],
        modules["text_encoder"],
        schedule,
        inputs.request,
        inputs.image[None],
        ids,
        inputs.region,
    )


# -- equal to the reference path ----------------------------------------------------------------


@pytest.mark.parametrize("steps", [4, 10])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_an_edit_equals_the_reference(
    kind: str, steps: int, real: TorchNetworks, real_v: TorchNetworks
) -> None:
    networks = real if kind == "epsilon" else real_v
    config = networks.checkpoint.scheduler_config
    schedule = Schedule.from_config(config, steps)
    assert schedule.prediction_type == kind
    region = torch.ones(16, 16, dtype=torch.bool)
    region[:, 12:] = False
    inputs = new_inputs(
        16,
        4,
        region=region,
        num_maps_per_mask=3,
        negative=tokens(40),
        seed=7,
        num_inference_steps=steps,
    )
    edited, _ = run_edit(networks, inputs, schedule)
    expected = by_reference(networks, inputs, schedule)
    assert edited.mask.any() and not edited.mask.all()
    assert edited.mask.equal(expected.mask)
    torch.testing.assert_close(edited.heatmap, expected.heat, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(edited.latents, expected.latents[0], atol=1e-3, rtol=1e-3)
    assert edited.image is not None
    torch.testing.assert_close(edited.image, expected.image[0], atol=1e-3, rtol=1e-3)


def test_a_trajectory_equals_the_reference_at_every_level(real: TorchNetworks) -> None:
    inputs = new_inputs(16, 4, num_maps_per_mask=1)
    path, _ = run(encode_flow(inputs, TEN, new_caches()), real)
    expected = by_reference(real, inputs, TEN).trajectory
    assert path.shape == (9, 4, 16, 16)
    for level, x in enumerate(expected):
        torch.testing.assert_close(path[level], x[0], atol=1e-4, rtol=1e-4)


# -- invariants ---------------------------------------------------------------------------------


def test_a_zero_mask_returns_the_clean_latent_exactly() -> None:
    empty = torch.zeros(8, 8, dtype=torch.bool)
    edited, job = run_edit(FakeNetworks(), new_inputs(user_mask=empty, composite=False), TEN)
    x0 = run(encode_flow(new_inputs(), TEN, new_caches()), FakeNetworks())[0][0]
    assert edited.latents.equal(x0)
    assert job.rows["unet"] == 0 and edited.image is not None


@given(seed=st.integers(0, 100), strength=st.floats(0.05, 1), guidance=st.floats(0, 20))
def test_outside_the_mask_the_latent_is_x0_exactly(
    seed: int, strength: float, guidance: float
) -> None:
    mask = some_mask()
    inputs = new_inputs(user_mask=mask, seed=seed, strength=strength, guidance_scale=guidance)
    edited, _ = run_edit(FakeNetworks(), inputs, TEN)
    x0 = run(encode_flow(inputs, TEN, new_caches()), FakeNetworks())[0][0]
    assert edited.latents[:, ~mask].equal(x0[:, ~mask])
    assert not edited.latents[:, mask].equal(x0[:, mask])


def test_a_full_mask_is_plain_decoding() -> None:
    full = torch.ones(8, 8, dtype=torch.bool)
    masked, _ = run_edit(FakeNetworks(), new_inputs(user_mask=full), TEN)
    plain, job = run_edit(FakeNetworks(), new_inputs(method="encode-decode"), TEN)
    assert masked.latents.equal(plain.latents)
    assert job.rows["unet"] == 8 + 16


def test_encoding_is_undone_by_decoding_with_the_same_text() -> None:
    """With Q = the empty text and no guidance, decoding walks the trajectory back."""
    schedule = Schedule.from_config(SD_CONFIG, 200)
    full = torch.ones(8, 8, dtype=torch.bool)
    inputs = new_inputs(user_mask=full, target=tokens(2), guidance_scale=1, num_inference_steps=200)
    edited, _ = run_edit(FakeNetworks(), inputs, schedule)
    x0 = run(encode_flow(new_inputs(), TEN, new_caches()), FakeNetworks())[0][0]
    assert (edited.latents - x0).abs().mean() < 0.05 * x0.abs().mean()


def test_the_mask_knows_no_guidance() -> None:
    masks = [
        run_edit(FakeNetworks(), new_inputs(guidance_scale=g), TEN)[0].mask for g in (0, 1, 7.5)
    ]
    assert masks[0].any() and not masks[0].all()
    assert masks[0].equal(masks[1]) and masks[0].equal(masks[2])


@pytest.mark.parametrize("composite", [True, False])
def test_equal_texts_edit_nothing(composite: bool) -> None:
    inputs = new_inputs(source=tokens(9), target=tokens(9), composite=composite)
    edited, job = run_edit(FakeNetworks(), inputs, TEN)
    assert not edited.mask.any() and edited.heatmap.equal(torch.zeros(8, 8))
    assert job.rows["unet"] == 0
    assert (edited.image is None) == composite


def test_padding_is_never_edited(real: TorchNetworks) -> None:
    region = torch.ones(16, 16, dtype=torch.bool)
    region[10:] = False
    edited, _ = run_edit(real, new_inputs(16, 4, region=region, num_maps_per_mask=2), TEN)
    assert edited.mask.any() and not edited.mask[10:].any()


def test_dilation_only_adds() -> None:
    plain, _ = run_edit(FakeNetworks(), new_inputs(), TEN)
    grown, _ = run_edit(FakeNetworks(), new_inputs(mask_dilation=1), TEN)
    assert (grown.mask & plain.mask).equal(plain.mask) and grown.mask.sum() > plain.mask.sum()


def test_the_seed_alone_decides_the_noise() -> None:
    first, again, other = (
        run_edit(FakeNetworks(), new_inputs(method="sdedit", seed=s), TEN)[0].latents
        for s in (3, 3, 4)
    )
    assert first.equal(again) and not first.equal(other)


def test_the_mask_noise_is_the_first_draw_of_the_seed() -> None:
    like = torch.zeros(4, 8, 8)
    drawn = flows.Noise(11, like).draw(10)
    assert drawn.equal(torch.randn((10, 4, 8, 8), generator=torch.Generator().manual_seed(11)))


# -- what it costs ------------------------------------------------------------------------------


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


def poison(net: str, after: int = 0) -> Any:
    """A fault that answers NaN from the call number `after` of `net` on."""
    seen: list[str] = []

    def fault(name: str, batch: Any, output: torch.Tensor) -> torch.Tensor | None:
        seen.append(name)
        return output * float("nan") if name == net and seen.count(net) > after else None

    return fault


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
    for cache in (caches.trajectories, caches.embeddings):
        for kept in cache._entries.values():
            assert all(x.isfinite().all() for x in kept), "what is broken was kept"


# -- sharing calls ------------------------------------------------------------------------------


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
    assert len(caches.trajectories.get((first.image_key, TEN)) or ()) == 10
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
