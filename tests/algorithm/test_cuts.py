"""Fewer rows: the inversion's stride, the guidance interval, noises until the mask is stable."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from diffedit.algorithm import find_mask
from diffedit.algorithm.mask import change
from diffedit.algorithm.plan import EditPlan, Stage
from diffedit.algorithm.schedule import Schedule
from diffedit.method_options import has_option
from diffedit.request import METHODS, EditRequest
from engine.backends.fake import FakeNetworks
from engine.backends.torch.networks import TorchNetworks
from tests.algorithm.flow_tools import (
    SD_CONFIG,
    TEN,
    edit_plan,
    encode_flow,
    mask_flow,
    new_caches,
    new_inputs,
    resolved,
    run,
    run_edit,
    some_mask,
    tokens,
)

STRIDED = [method for method in METHODS if has_option(method, "inversion_stride")]
TWENTY = Schedule.from_config(SD_CONFIG, 20)


def counted() -> FakeNetworks:
    """Every batch size is a profile, so that calls have no padding."""
    return FakeNetworks(denoiser_batch_sizes=tuple(range(1, 21)))


def rows_in(networks: FakeNetworks) -> int:
    """Rows that ran inside the denoiser itself."""
    return sum(sum(b.calls) for (net, _), b in networks.backends.items() if net == "unet")


@pytest.mark.parametrize(
    ("method", "stride", "interval", "scale"),
    list(product(STRIDED, (1, 2, 3, 7), ((0.0, 1.0), (0.4, 1.0), (0.25, 0.6)), (1.0, 5.0))),
)
def test_the_modules_run_the_rows_of_the_plan(
    method: str, stride: int, interval: tuple[float, float], scale: float
) -> None:
    options: dict[str, Any] = {"method": method, "inversion_stride": stride, "strength": 0.8}
    options |= {"guidance_interval": interval, "guidance_scale": scale, "num_maps_per_mask": 2}
    networks, caches = counted(), new_caches()
    for target in (30, 40):  # the second edit has the trajectory
        inputs = new_inputs(target=tokens(target), **options)
        plan, before = edit_plan(inputs, TEN, caches), rows_in(networks)
        _, handle = run_edit(networks, inputs, TEN, caches)
        assert rows_in(networks) - before == handle.rows["unet"] == plan.rows
        assert handle.calls["unet"] == sum(stage.calls for stage in plan.stages)


@pytest.mark.parametrize(
    ("options", "first", "next_one"),
    [
        ({"preset": "paper"}, 140, 100),
        ({"preset": "balanced"}, 34, 28),
        ({"preset": "balanced", "strength": 0.9}, 36, 30),
        ({"preset": "draft"}, 18, 15),
        ({"preset": "draft", "strength": 0.9}, 19, 16),
    ],
)
def test_the_rows_of_each_preset(options: dict[str, Any], first: int, next_one: int) -> None:
    """At most: the mask may be stable before the last noise."""
    caches, networks = new_caches(), counted()
    for target, most in ((30, first), (40, next_one)):
        inputs, before = new_inputs(target=tokens(target), **options), rows_in(networks)
        schedule = Schedule.from_config(SD_CONFIG, inputs.request.num_inference_steps)
        assert edit_plan(inputs, schedule, caches).rows == most
        run_edit(networks, inputs, schedule, caches)
        assert most - 2 <= rows_in(networks) - before <= most


def by_hand(networks: TorchNetworks, x: Tensor, stride: int, depth: int) -> Iterator[Tensor]:
    """The inversion as plain DDIM steps with a held eps."""
    modules, (a, s) = networks.modules, (TEN.alphas, TEN.sigmas)
    (empty,) = tokens(2)
    text = modules["text_encoder"](torch.tensor([empty])).last_hidden_state
    eps = x
    for i in range(depth):
        if i % stride == 0:
            t = torch.tensor([TEN.timesteps[min(i + stride, 10)]])
            eps = modules["unet"](x[None], t, text).sample[0]
        x = a[i + 1] * (x - s[i] * eps) / a[i] + s[i + 1] * eps
        yield x


@torch.inference_mode()
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_a_row_is_held_for_the_steps_of_its_stride(stride: int, real: TorchNetworks) -> None:
    inputs = new_inputs(16, 4, inversion_stride=stride)
    trajectory, handle = run(encode_flow(inputs, TEN, new_caches()), real)
    assert len(trajectory) == 9 and handle.rows["unet"] == -(-8 // stride)
    for ours, expected in zip(trajectory[1:], by_hand(real, trajectory[0], stride, 8), strict=True):
        torch.testing.assert_close(ours, expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("stride", [2, 3, 4])
def test_a_trajectory_of_another_strength_is_used_whatever_its_depth(stride: int) -> None:
    """Equal to the bit: what is cached must not change a result."""
    for first, second in product((0.3, 0.5, 0.7, 0.8), repeat=2):
        caches, networks = new_caches(), counted()
        run_edit(networks, new_inputs(strength=first, inversion_stride=stride), TEN, caches)
        inputs = new_inputs(strength=second, inversion_stride=stride, target=tokens(50))
        plan, before = edit_plan(inputs, TEN, caches), rows_in(networks)
        cached, _ = run_edit(networks, inputs, TEN, caches)
        fresh, _ = run_edit(counted(), inputs, TEN)
        assert cached.latents.equal(fresh.latents)
        assert rows_in(networks) - before == plan.rows
        depth, known = round(10 * second), round(10 * first)
        rows = -(-depth // stride) - known // stride if depth > known else 0
        assert sum(s.calls for s in plan.stages if s.name == "encode") == rows


def test_trajectories_of_different_strides_are_kept_apart() -> None:
    caches, networks = new_caches(), counted()
    for stride in (1, 3, 1, 3):
        inputs = new_inputs(inversion_stride=stride, user_mask=some_mask())
        edited, _ = run_edit(networks, inputs, TEN, caches)
        fresh, _ = run_edit(counted(), inputs, TEN)
        assert edited.latents.equal(fresh.latents)
    assert len(caches.trajectories) == 2


@pytest.mark.parametrize(
    ("interval", "guided"),
    [
        ((0.0, 1.0), range(1, 17)),
        ((0.4, 1.0), range(9, 17)),
        ((0.6, 1.0), range(13, 17)),
        ((0.29, 0.3), range(6, 7)),
        ((0.0, 0.05), range(1, 2)),
        ((0.85, 1.0), range(0)),
    ],
)
def test_the_guided_levels(interval: tuple[float, float], guided: range) -> None:
    """Low is outside, high inside: 0.6 of 20 is level 12, so 13 is the lowest guided one."""
    request = resolved(EditRequest(b"", "a", guidance_interval=interval, num_inference_steps=20))
    plan = EditPlan.for_edit(request, TWENTY)
    assert plan.guided == guided
    decode = sum(stage.rows for stage in plan.stages if stage.name == "decode")
    assert decode == 16 + len(guided)
    one = EditPlan.for_edit(request, TWENTY, embeds_guidance=True)
    assert one.stages[-1] == Stage("decode", 16, 1) and one.guided == guided


# -- noises until the mask is stable ---------------------------------------------------------------


def test_noises_are_added_until_the_mask_is_stable(real: TorchNetworks) -> None:
    """The mask of the first k noises, for the first k whose mask differs little from the last."""
    options: dict[str, Any] = {"mask_thresholding_ratio": 1.5}
    found = [
        run(
            mask_flow(
                new_inputs(16, 4, num_maps_per_mask=16, **options, mask_tolerance=t),
                TEN,
                new_caches(),
            ),
            real,
        )
        for t in (0.0, 1e-6, 0.1, 1.0)
    ]
    rows = [handle.rows["unet"] for _, handle in found]
    assert rows[0] == 32 and rows[-1] == 4
    assert rows == sorted(rows, reverse=True) and 4 < rows[2] < 32
    (all_of_them, _), *_, (first_two, _) = found
    pair = new_inputs(16, 4, num_maps_per_mask=16, **options)
    x0 = all_of_them.latents
    noisy = TEN.noise(x0, find_mask.Noise(0, x0).draw(16), 5)
    predicted = predictions(real, noisy[:2], pair)
    heat, mask = find_mask.mask_of(pair, predicted[0::2], predicted[1::2])
    torch.testing.assert_close(first_two.heatmap, heat, atol=1e-4, rtol=1e-4)
    assert first_two.mask.equal(mask) and not mask.equal(all_of_them.mask)


@torch.inference_mode()
def predictions(networks: TorchNetworks, noisy: Tensor, inputs: Any) -> list[Tensor]:
    """The denoiser's predictions for R and Q in turn, for each noise."""
    modules = networks.modules
    texts = [
        modules["text_encoder"](torch.tensor([ids[0]])).last_hidden_state
        for ids in (inputs.source, inputs.target)
    ]
    t = torch.tensor([TEN.timesteps[5]])
    return [modules["unet"](x[None], t, text).sample[0] for x in noisy for text in texts]


def test_the_change_of_a_mask_is_a_share_of_the_mask() -> None:
    small, large = some_mask(), some_mask()
    large[7, 7] = True  # one cell of 16
    assert change(small, large).item() == change(large, small).item() == pytest.approx(1 / 16)
    assert change(small, small).item() == 0
    nothing = torch.zeros_like(small)
    assert change(nothing, nothing).item() == 0 and change(nothing, small).item() == 1


@pytest.mark.parametrize(("n", "noises"), [(1, (1,)), (2, (2,)), (3, (2, 1)), (5, (2, 1, 1, 1))])
def test_the_plan_states_the_most_rows_of_a_growing_mask(n: int, noises: tuple[int, ...]) -> None:
    request = EditRequest(b"", "a", num_maps_per_mask=n, mask_tolerance=0.01)
    plan = EditPlan.for_mask(resolved(request), TEN)
    assert plan.noises == noises and plan.rows == 2 * n
