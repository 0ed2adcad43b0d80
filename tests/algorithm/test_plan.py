"""The plan of a request equals what its flow runs, stage by stage."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from diffedit.algorithm.plan import EditPlan, Stage
from diffedit.algorithm.schedule import Schedule
from diffedit.request import EditRequest
from engine.backends.fake import FakeNetworks
from tests.algorithm.flow_tools import (
    SD_CONFIG,
    edit_plan,
    encode_flow,
    mask_flow,
    new_caches,
    new_inputs,
    resolved,
    run,
    run_edit,
    tokens,
)

FIFTY = Schedule.from_config(SD_CONFIG, 50)
PAPER = resolved(EditRequest(b"", "a cup", preset="paper"))


def test_the_papers_edit() -> None:
    plan = EditPlan.for_edit(PAPER, FIFTY)
    assert plan.stages == (Stage("mask", 1, 20), Stage("encode", 40, 1), Stage("decode", 40, 2))
    assert (plan.rows, plan.mask_level, plan.depth) == (140, 25, 40)
    assert plan.texts == ("target", "negative", "source", "empty")
    assert EditPlan.for_edit(PAPER, FIFTY, known_levels=40).rows == 100


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ({}, 140),
        ({"method": "encode-decode"}, 120),
        ({"method": "masked-sdedit"}, 100),
        ({"method": "sdedit"}, 80),
        ({"guidance_scale": 1.0}, 100),
        ({"strength": 0.5, "num_maps_per_mask": 3}, 81),
    ],
)
def test_the_flow_runs_the_rows_of_its_plan(options: dict[str, Any], rows: int) -> None:
    stages: list[str] = []
    inputs = new_inputs(**options, on_stage=stages.append)
    plan = EditPlan.for_edit(inputs.request, FIFTY)
    networks = FakeNetworks()
    _, handle = run_edit(networks, inputs, FIFTY)
    assert handle.rows["unet"] == rows == plan.rows
    assert handle.calls["unet"] == sum(stage.calls for stage in plan.stages)
    assert handle.rows["text"] == len({getattr(inputs, name) for name in plan.texts})
    assert {stage.name for stage in plan.stages} <= set(stages)
    sizes: Counter[int] = Counter()
    for (name, _), backend in networks.backends.items():
        if name == "unet":
            sizes.update(backend.calls)
    expected: Counter[int] = Counter()
    for stage in plan.stages:
        profile = next(b for b in (1, 2, 4, 8, 16, 20) if b >= stage.rows_per_call)
        expected[profile] += stage.calls
    assert sizes == expected


def test_a_cached_trajectory_shortens_the_plan() -> None:
    caches, networks = new_caches(), FakeNetworks()
    run_edit(networks, new_inputs(strength=0.4), FIFTY, caches)
    inputs = new_inputs(strength=0.6, target=tokens(40))
    plan = edit_plan(inputs, FIFTY, caches)
    assert plan.stages[1] == Stage("encode", 10, 1)
    _, handle = run_edit(networks, inputs, FIFTY, caches)
    assert handle.rows["unet"] == plan.rows == 20 + 10 + 60


def test_a_mask_alone_and_a_trajectory_alone() -> None:
    inputs = new_inputs()
    plan = EditPlan.for_mask(inputs.request, FIFTY)
    _, handle = run(mask_flow(inputs, FIFTY, new_caches()), FakeNetworks())
    assert handle.rows["unet"] == plan.rows == 20
    assert handle.rows["text"] == len(plan.texts) == 2
    assert not plan.decodes_image and "vae_decode" not in handle.rows

    plan = EditPlan.for_inversion(inputs.request, FIFTY)
    trajectory, encode = run(encode_flow(inputs, FIFTY, new_caches()), FakeNetworks())
    assert encode.rows["unet"] == plan.rows == len(trajectory) - 1 == 40
    assert encode.rows["text"] == len(plan.texts) == 1


def test_equal_texts_are_one_row() -> None:
    request = resolved(EditRequest(b"", "a cup", negative_prompt="a jug"))
    assert EditPlan.for_edit(request, FIFTY).distinct_texts(request) == 3
    assert EditPlan.for_edit(PAPER, FIFTY).distinct_texts(PAPER) == 2
