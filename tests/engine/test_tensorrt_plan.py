"""What a plan says and whether it fits, decided on facts, without a GPU."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.backends.engine_folder import TensorInfo
from engine.backends.tensorrt.plan import (
    Host,
    Plan,
    RuntimeCache,
    arena_bytes,
    check_plan,
    compute_capability,
    misfit,
)
from engine.errors import EngineMismatch
from engine.netspec import NetSpec
from tests.engine.compiled import BUILT, BUILT_RTX, H200, RTX, entry, spec


@pytest.mark.parametrize(
    ("host", "built", "reason"),
    [
        (H200, BUILT, None),
        (RTX, BUILT_RTX, None),
        (RTX, {**BUILT_RTX, "compute_capabilities": ()}, None),
        (RTX, {**BUILT_RTX, "compute_capabilities": ("CURRENT",)}, None),
        (RTX, {**BUILT_RTX, "gpu": "NVIDIA RTX 3090"}, None),  # portable among its capabilities
        (H200, {}, None),
        (
            H200,
            {**BUILT, "version": "10.13.2.6"},
            "was built for TensorRT 10.13.2.6, and here is TensorRT 10.13.3.9",
        ),
        (
            H200,
            {**BUILT, "gpu": "NVIDIA A100", "compute_capabilities": ("8.0",)},
            "was built for compute capability 8.0 and NVIDIA A100, and here is 9.0 and NVIDIA H200",
        ),
        (
            H200,
            {**BUILT, "gpu": "NVIDIA H100"},
            "was built for NVIDIA H100, and here is NVIDIA H200",
        ),
        (
            replace(RTX, compute_capability=(12, 0)),
            BUILT_RTX,
            "was built for compute capability 8.6 or 8.9, and here is 12.0",
        ),
        (
            replace(RTX, version="1.8.0.1"),
            BUILT_RTX,
            "was built for TensorRT for RTX 1.7.1.116, and here is TensorRT for RTX 1.8.0.1",
        ),
    ],
)
def test_says_what_differs(
    tmp_path: Path, host: Host, built: dict[str, Any], reason: str | None
) -> None:
    made = entry(tmp_path, spec("text"), kind=host.product, **built)
    assert misfit(made, host) == reason


@pytest.mark.parametrize("text", ["8.6", "86", "sm_86", "SM86", " 8.6 "])
def test_capabilities_in_any_spelling(text: str) -> None:
    assert compute_capability(text) == (8, 6)
    assert compute_capability(text.replace("86", "120").replace("8.6", "12.0")) == (12, 0)


@pytest.mark.parametrize("text", ["", "none", "8", "8.6.1", "8,6"])
def test_what_is_no_capability(text: str) -> None:
    with pytest.raises(ValueError, match="no compute capability"):
        compute_capability(text)


def plan_of(net: NetSpec, *, batches: tuple[int, ...] | None = None) -> Plan:
    """What a right engine of this spec says."""

    def found(tensor: Any) -> TensorInfo:
        return TensorInfo(tensor.name, tensor.dtype, tensor.shape)

    sizes = net.batch_sizes if batches is None else batches
    return Plan(
        inputs=tuple(found(t) for t in net.inputs),
        outputs=tuple(found(t) for t in net.outputs),
        profiles=tuple({t.name: ((b, *t.shape),) * 3 for t in net.inputs} for b in sizes),
        memory=tuple(1000 * b for b in sizes),
        total_memory=1000 * max(sizes),
    )


def test_profiles_are_found_by_their_shapes() -> None:
    unet = spec("unet")
    assert check_plan(plan_of(unet), unet, Path("f")) == {1: 0, 2: 1, 4: 2}
    reordered = plan_of(unet, batches=(4, 8, 1, 2))
    assert check_plan(reordered, unet, Path("f")) == {4: 0, 1: 2, 2: 3}
    assert check_plan(reordered, replace(unet, batch_sizes=(2,)), Path("f")) == {2: 3}


def test_a_missing_profile_is_named() -> None:
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


def test_a_profile_that_leaves_an_input_out_is_none() -> None:
    unet = spec("unet", batch_sizes=(2,))
    plan = plan_of(unet)
    partial = ({"latent": plan.profiles[0]["latent"]},)
    with pytest.raises(EngineMismatch, match="no static profile"):
        check_plan(replace(plan, profiles=partial), unet, Path("f"))


def test_a_plan_of_another_border() -> None:
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
def test_one_arena_for_the_largest_profile(
    memory: tuple[int, ...], total: int, wanted: int
) -> None:
    plan = replace(plan_of(spec("text")), memory=memory, total_memory=total)
    assert arena_bytes(plan) == wanted


def test_what_was_compiled_is_found_again(tmp_path: Path) -> None:
    made = entry(tmp_path, spec("text"), kind="tensorrt-rtx")
    cache = RuntimeCache(made, tmp_path)
    assert cache.load() is None
    cache.save(b"kernels")
    assert cache.path == tmp_path / f"{made.files[0].name}.cache"
    assert RuntimeCache(made, tmp_path).load() == b"kernels"


def test_a_cache_is_written_when_it_changed(tmp_path: Path) -> None:
    cache = RuntimeCache(entry(tmp_path, spec("text")), tmp_path)
    cache.save(b"kernels")
    cache.path.unlink()
    cache.save(b"kernels")
    assert not cache.path.exists()
    cache.save(b"more kernels")
    assert cache.load() == b"more kernels"
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".tmp")] == []


def test_a_damaged_or_foreign_cache_is_not_used(tmp_path: Path) -> None:
    made = entry(tmp_path, spec("text"))
    cache = RuntimeCache(made, tmp_path)
    cache.save(b"kernels")
    rebuilt = replace(made, files=(replace(made.files[0], sha256="0" * 64),))
    assert RuntimeCache(rebuilt, tmp_path).load() is None
    whole = cache.path.read_bytes()
    for damaged in (whole[:-1], whole[:-1] + b"S", b"", whole[:10]):
        cache.path.write_bytes(damaged)
        assert cache.load() is None
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(whole)
    cache.path.unlink()
    cache.path.symlink_to(elsewhere)
    assert cache.load() is None


def test_a_read_only_folder_has_its_cache_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = entry(tmp_path, spec("text"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    cache = RuntimeCache(made, tmp_path)
    assert cache.path.parent == tmp_path / "home" / "diffedit-trt"
    cache.save(b"kernels")
    assert RuntimeCache(made, tmp_path).load() == b"kernels"


def test_a_disk_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path) -> None:
    made = entry(tmp_path, spec("text"))
    (tmp_path / f"{made.files[0].name}.cache").mkdir()  # nothing can be renamed onto a folder
    cache = RuntimeCache(made, tmp_path)
    cache.save(b"kernels")
    assert cache.load() is None
