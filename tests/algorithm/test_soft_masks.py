"""Soft user masks: the value of a cell decides from which level on it is edited."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from diffedit.algorithm import reference
from diffedit.algorithm.reference_models import stable_diffusion
from engine.backends.fake import FakeNetworks
from engine.backends.torch.networks import TorchNetworks
from tests.algorithm.flow_tools import TEN, encode_flow, new_caches, new_inputs, run, run_edit

RAMP = torch.linspace(0, 1, 16).repeat(16, 1)


@pytest.mark.parametrize("strength", [0.3, 0.8])
def test_an_edit_under_a_soft_mask_equals_the_reference(
    real: TorchNetworks, strength: float
) -> None:
    region = torch.ones(16, 16, dtype=torch.bool)
    region[14:] = False
    inputs = new_inputs(
        16,
        4,
        region=region,
        user_mask=RAMP > 0,
        strength=strength,
        num_inference_steps=10,
    )
    inputs = replace(inputs, user_levels=RAMP)
    edited, _ = run_edit(real, inputs, TEN)
    ids = {
        name: [torch.tensor([text]) for text in getattr(inputs, name)]
        for name in ("source", "target", "negative", "empty")
    }
    expected = reference.edit(
        stable_diffusion(real.modules), TEN, inputs.request, inputs.image[None], ids, region, RAMP
    )
    assert edited.heatmap.equal(RAMP) and edited.mask.equal((RAMP > 0) & region)
    torch.testing.assert_close(edited.latents, expected.latents[0], atol=1e-3, rtol=1e-3)


def test_levels_of_zero_and_one_are_a_black_and_white_mask() -> None:
    mask = torch.rand(8, 8, generator=torch.manual_seed(0)) > 0.5
    hard, _ = run_edit(FakeNetworks(), new_inputs(user_mask=mask), TEN)
    soft, _ = run_edit(
        FakeNetworks(), replace(new_inputs(user_mask=mask), user_levels=mask.float()), TEN
    )
    assert soft.latents.equal(hard.latents) and soft.heatmap.equal(hard.heatmap)


def test_a_darker_cell_stays_nearer_to_the_photograph() -> None:
    x0 = run(encode_flow(new_inputs(), TEN, new_caches()), FakeNetworks())[0][0]
    whole = torch.ones(8, 8, dtype=torch.bool)
    changes = []
    for value in (0.05, 0.3, 0.6, 1.0):
        inputs = replace(new_inputs(user_mask=whole), user_levels=torch.full((8, 8), value))
        edited, _ = run_edit(FakeNetworks(), inputs, TEN)
        changes.append(float((edited.latents - x0).abs().mean()))
    assert changes[0] == 0, "less than a step of eight"
    assert changes == sorted(changes) and changes[1] < changes[3]
