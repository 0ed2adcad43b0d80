"""The invariants of an edit, and its equality with the reference."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffedit.algorithm import reference
from diffedit.algorithm.find_mask import Noise
from diffedit.algorithm.inputs import EditInputs
from diffedit.algorithm.reference_models import stable_diffusion
from diffedit.algorithm.reference_setup import Reference
from diffedit.algorithm.schedule import Schedule
from engine.backends.fake import FakeNetworks
from engine.backends.torch.networks import TorchNetworks
from engine.checkpoint import Checkpoint
from tests.algorithm.flow_tools import (
    SD_CONFIG,
    TEN,
    encode_flow,
    new_caches,
    new_inputs,
    run,
    run_edit,
    some_mask,
    tokens,
)


@pytest.fixture(scope="module")
def real_v(tiny_v: Path) -> TorchNetworks:
    return TorchNetworks.open(Checkpoint.open(tiny_v), dtype="fp32", device="cpu")


def by_reference(networks: TorchNetworks, inputs: EditInputs, schedule: Schedule) -> Reference:
    ids = {
        name: [torch.tensor([text]) for text in getattr(inputs, name)]
        for name in ("source", "target", "negative", "empty")
    }
    return reference.edit(
        stable_diffusion(networks.modules),
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
    drawn = Noise(11, like).draw(10)
    assert drawn.equal(torch.randn((10, 4, 8, 8), generator=torch.Generator().manual_seed(11)))
