"""Several edits in one pass: their rows, their masks, and equality with the reference path."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from diffedit.algorithm import mask as masks
from diffedit.algorithm import reference
from diffedit.algorithm.find_mask import disjoint
from diffedit.algorithm.inputs import EditInputs
from diffedit.algorithm.plan import EditPlan
from diffedit.algorithm.reference_models import stable_diffusion
from diffedit.algorithm.reference_setup import Reference
from diffedit.algorithm.schedule import Schedule
from engine.backends.fake import FakeNetworks
from engine.backends.torch.networks import TorchNetworks
from tests.algorithm.flow_tools import (
    TEN,
    TEXTS,
    edit_plan,
    mask_flow,
    new_caches,
    new_inputs,
    run,
    run_edit,
    tokens,
)

SOURCE, PEAR, CUP = tokens(20), tokens(30), tokens(40)
SHARED: dict[str, Any] = {
    "source": SOURCE,
    "target": PEAR,
    "more": ((SOURCE, CUP), (SOURCE, tokens(50))),
}
"""Three edits with one source text."""
OF_SHARED = [("a table", "a pear"), ("a table", "a cup"), ("a table", "a book")]


def shared(latent: int = 8, factor: int = 8, **options: Any) -> EditInputs:
    fixed: dict[str, Any] = {"strength": 0.8, "num_maps_per_mask": 4, "preset": "paper"}
    return new_inputs(latent, factor, edits=OF_SHARED, **{**SHARED, **fixed, **options})


def counted() -> FakeNetworks:
    """Every batch size is a profile, so that calls have no padding."""
    return FakeNetworks(denoiser_batch_sizes=tuple(range(1, 41)))


def rows_in(networks: FakeNetworks, net: str = "unet") -> int:
    return sum(sum(b.calls) for (name, _), b in networks.backends.items() if name == net)


def reference_of(networks: TorchNetworks, inputs: EditInputs, schedule: Schedule) -> Reference:
    ids = {name: [torch.tensor([text]) for text in getattr(inputs, name)] for name in TEXTS}
    pairs = [("source", "target")]
    for k, pair in enumerate(inputs.more):
        ids |= {f"{n} {k}": [torch.tensor([t]) for t in pair[n]] for n in (0, 1)}
        pairs.append((f"0 {k}", f"1 {k}"))
    return reference.edit(
        stable_diffusion(networks.modules),
        schedule,
        inputs.request,
        inputs.image[None],
        ids,
        inputs.region,
        pairs=pairs,
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"preset": "balanced", "mask_tolerance": 0.4},
        {"guidance_interval": (0.3, 0.7), "mask_cleaning": "clean", "mask_dilation": 1},
    ],
)
def test_several_edits_equal_the_reference(real: TorchNetworks, options: dict[str, Any]) -> None:
    schedule = Schedule.from_config(real.checkpoint.scheduler_config, 6)
    region = torch.ones(16, 16, dtype=torch.bool)
    region[:, 13:] = False
    inputs = new_inputs(
        16,
        4,
        edits=[("a", "b"), ("a", "c"), ("d", "b")],
        source=SOURCE,
        target=PEAR,
        more=((SOURCE, CUP), (tokens(60), PEAR)),
        region=region,
        **{
            "num_inference_steps": 6,
            "num_maps_per_mask": 4,
            "mask_thresholding_ratio": 2.2,
            "seed": 4,
            **options,
        },
    )
    expected = reference_of(real, inputs, schedule)
    found, _ = run_edit(real, inputs, schedule)
    for (_, mask), own in zip(found.parts, expected.masks, strict=True):
        assert mask.equal(own)
    assert sum(mask.any().item() for mask in expected.masks) >= 2, "the test needs two masks"
    assert found.mask.equal(expected.mask) and 0 < found.mask.sum() < region.sum()
    torch.testing.assert_close(found.heatmap, expected.heat, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(found.latents, expected.latents[0], atol=2e-4, rtol=1e-3)
    assert found.image is not None
    torch.testing.assert_close(found.image, expected.image[0], atol=2e-4, rtol=1e-3)
    outside = ~found.mask
    assert (found.latents - expected.x0[0])[:, outside].abs().max() < 1e-6


def test_the_masks_cost_n_and_n_rows_an_edit_in_the_modules() -> None:
    networks, inputs = counted(), shared()
    found, handle = run(mask_flow(inputs, TEN, new_caches()), networks)
    assert rows_in(networks) == handle.rows["unet"] == 4 + 3 * 4
    assert rows_in(networks, "text") == 4
    assert len(found.parts) == 3


@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.5, 1.0)])
def test_an_edit_of_several_runs_the_rows_of_its_plan(
    real: TorchNetworks, interval: tuple[float, float]
) -> None:
    """The inversion and the negative row are shared; a target row a step for each edit."""
    schedule, caches = Schedule.from_config(real.checkpoint.scheduler_config, 10), new_caches()
    inputs = shared(16, 4, guidance_interval=interval, mask_thresholding_ratio=2.5)
    plan = edit_plan(inputs, schedule, caches)
    guided = sum(interval[0] < i / 10 for i in range(1, 9))
    assert plan.rows == 16 + 8 + 3 * 8 + guided
    with rows_of_modules(real) as rows:
        found, handle = run_edit(real, inputs, schedule, caches)
        assert all(mask.any() for _, mask in found.parts), "the test needs three masks"
        assert rows["unet"] == handle.rows["unet"] == plan.rows
        run_edit(real, inputs, schedule, caches)
        assert rows["unet"] == 2 * plan.rows - 8
    assert handle.rows["vae_decode"] == handle.rows["vae_encode"] == 1


@contextmanager
def rows_of_modules(networks: TorchNetworks) -> Iterator[Counter[str]]:
    """Counts the rows that PyTorch's module of the denoiser runs."""
    rows: Counter[str] = Counter()

    def count(module: Any, args: Any, kwargs: Any) -> None:
        rows["unet"] += len(args[0] if args else kwargs["sample"])

    hook = networks.modules["unet"].register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield rows
    finally:
        hook.remove()


def test_edits_with_the_same_target_share_its_rows() -> None:
    networks = counted()
    inputs = new_inputs(
        edits=[("a", "b"), ("c", "b")],
        source=SOURCE,
        target=PEAR,
        more=((CUP, PEAR),),
        num_maps_per_mask=2,
        guidance_scale=3.0,
    )
    plan = EditPlan.for_edit(inputs.request, TEN)
    assert plan.distinct_texts(inputs.request) == 4
    _, handle = run_edit(networks, inputs, TEN)
    assert handle.rows["unet"] == plan.rows == 2 * 3 + 8 + 8 * 2


def test_each_mask_is_that_of_the_edit_alone(real: TorchNetworks) -> None:
    schedule = Schedule.from_config(real.checkpoint.scheduler_config, 6)
    options: dict[str, Any] = {"num_inference_steps": 6, "num_maps_per_mask": 3, "seed": 9}
    inputs = new_inputs(16, 4, edits=OF_SHARED, **SHARED, **options)
    found, _ = run(mask_flow(inputs, schedule, new_caches()), real)
    taken = torch.zeros(16, 16, dtype=torch.bool)
    for (source, target), (heat, mask) in zip(inputs.pairs, found.parts, strict=True):
        single = new_inputs(16, 4, source=source, target=target, **options)
        alone, _ = run(mask_flow(single, schedule, new_caches()), real)
        torch.testing.assert_close(heat, alone.heatmap, atol=1e-5, rtol=1e-4)
        assert mask.equal(alone.mask & ~taken)
        taken |= alone.mask
    assert found.mask.equal(taken)


def test_an_edit_without_a_mask_leaves_the_others_as_they_are() -> None:
    networks = counted()
    inputs = new_inputs(
        edits=[("a", "a"), ("a", "b"), ("a", "b")],
        source=SOURCE,
        target=SOURCE,
        more=((SOURCE, PEAR), (SOURCE, PEAR)),
        num_maps_per_mask=2,
        seed=1,
    )
    found, handle = run_edit(networks, inputs, TEN)
    single = new_inputs(source=SOURCE, target=PEAR, num_maps_per_mask=2, seed=1)
    alone, own = run_edit(counted(), single, TEN)
    assert [bool(mask.any()) for _, mask in found.parts] == [False, True, False]
    assert handle.rows == own.rows
    assert found.mask.equal(alone.mask)
    torch.testing.assert_close(found.latents, alone.latents)


def test_no_mask_at_all_returns_the_photograph() -> None:
    inputs = new_inputs(
        edits=[("a", "a"), ("b", "b")], source=SOURCE, target=SOURCE, more=((PEAR, PEAR),)
    )
    found, handle = run_edit(counted(), inputs, TEN)
    assert found.image is None and not found.mask.any() and len(found.parts) == 2
    assert handle.rows["unet"] == 0


def test_the_margin_of_an_edit_gives_way_to_the_mask_of_a_later_one() -> None:
    """Two touching masks with a margin of a column to each side."""
    heat = torch.zeros(4, 9)
    cores = [torch.zeros(4, 9, dtype=torch.bool) for _ in range(3)]
    for core, columns in zip(cores, ((2, 4), (4, 6), (3, 6)), strict=True):
        core[:, slice(*columns)] = True
    edits = [masks.grown(core, 1) for core in cores]
    found = [(heat, edit) for edit in edits]
    first, second, third = (mask[0].tolist() for _, mask in disjoint(found, cores))
    assert [k for k in range(9) if first[k]] == [1, 2, 3]
    assert [k for k in range(9) if second[k]] == [4, 5, 6]
    assert not any(third), "an earlier edit has the cells"
    without = disjoint([(heat, core) for core in cores], cores)
    assert [int(mask[0].sum()) for _, mask in without] == [2, 2, 0]
