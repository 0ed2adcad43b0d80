"""The facts of an engine compared with its manifest, without a GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.backends.tensor_checks import TensorInfo
from engine.backends.tensorrt.plan import Plan, arena_bytes, check_plan
from engine.errors import EngineMismatch
from engine.netspec import NetSpec
from tests.engine.compiled import spec


def plan_of(net: NetSpec, *, batches: tuple[int, ...] | None = None) -> Plan:
    """Return the facts of an engine that matches `net`."""

    def info(tensor: Any) -> TensorInfo:
        return TensorInfo(tensor.name, tensor.dtype, tensor.shape)

    sizes = net.batch_sizes if batches is None else batches
    return Plan(
        inputs=tuple(info(t) for t in net.inputs),
        outputs=tuple(info(t) for t in net.outputs),
        profiles=tuple({t.name: ((b, *t.shape),) * 3 for t in net.inputs} for b in sizes),
        memory=tuple(1000 * b for b in sizes),
        total_memory=1000 * max(sizes),
    )


def test_profiles_are_matched_by_their_shapes() -> None:
    unet = spec("unet")
    assert check_plan(plan_of(unet), unet, Path("f")) == {1: 0, 2: 1, 4: 2}
    reordered = plan_of(unet, batches=(4, 8, 1, 2))
    assert check_plan(reordered, unet, Path("f")) == {4: 0, 1: 2, 2: 3}
    assert check_plan(reordered, replace(unet, batch_sizes=(2,)), Path("f")) == {2: 3}


def test_a_missing_profile_is_an_error_that_names_the_batch_sizes() -> None:
    unet = spec("unet")
    with pytest.raises(EngineMismatch, match="no static profile for batches of 2, 4"):
        check_plan(plan_of(unet, batches=(1, 8)), unet, Path("f"))


def test_a_profile_of_a_range_is_not_static() -> None:
    text = spec("text", batch_sizes=(2,))
    plan = plan_of(text)
    row = text.inputs[0].shape
    ranged = ({"input_ids": ((1, *row), (2, *row), (2, *row))},)
    with pytest.raises(EngineMismatch, match="no static profile for batches of 2"):
        check_plan(replace(plan, profiles=ranged), text, Path("f"))


def test_a_profile_without_shapes_for_an_input_does_not_count() -> None:
    unet = spec("unet", batch_sizes=(2,))
    plan = plan_of(unet)
    partial = ({"latent": plan.profiles[0]["latent"]},)
    with pytest.raises(EngineMismatch, match="no static profile"):
        check_plan(replace(plan, profiles=partial), unet, Path("f"))


def test_inputs_and_outputs_must_match_the_manifest() -> None:
    unet = spec("unet")
    plan = plan_of(unet)
    half = tuple(replace(t, dtype="HALF") for t in plan.inputs)
    with pytest.raises(EngineMismatch, match=r"input 'latent' of f is HALF \(4, 8, 8\), not fp32"):
        check_plan(replace(plan, inputs=half), unet, Path("f"))
    with pytest.raises(EngineMismatch, match="output 'prediction' of f is missing"):
        check_plan(replace(plan, outputs=()), unet, Path("f"))


@pytest.mark.parametrize(
    ("memory", "total", "wanted"),
    [((0,), 0, 256), ((256, 100), 256, 256), ((257, 1), 0, 512), ((1,), 1 << 31, 1 << 31)],
)
def test_the_arena_is_large_enough_for_the_largest_profile(
    memory: tuple[int, ...], total: int, wanted: int
) -> None:
    plan = replace(plan_of(spec("text")), memory=memory, total_memory=total)
    assert arena_bytes(plan) == wanted
