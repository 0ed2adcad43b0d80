"""The memory of a call, counted on the meta device, against sums that can be done by hand and
against the allocator of the real thing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from engine.checkpoint import Checkpoint
from engine.forecast import call_memory
from engine.models import Network
from engine.netspec import NetSpec, TensorSpec
from engine.working_memory import LiveBytes, working_bytes
from tests.families.conftest import FamilyUnderTest, family

__all__ = ["family"]

MIB = 1 << 20


def called(call: Any, rows: int = 1) -> int:
    tensor = TensorSpec("x", (MIB // 4,))
    spec = NetSpec("net", "denoiser", None, (tensor,), (tensor,), (1, 2))
    module = torch.nn.Module()
    return working_bytes(Network("net", "denoiser", "part", call), module, spec, rows)


def test_what_is_freed_is_not_counted_twice() -> None:
    assert called(lambda m, d, x: x + 1) == 2 * MIB
    assert called(lambda m, d, x: ((x + 1) * 2).relu()) == 3 * MIB
    assert called(lambda m, d, x: x + 1, rows=2) == 4 * MIB


def test_views_and_changes_in_place_cost_nothing() -> None:
    assert called(lambda m, d, x: (x + 1).reshape(2, -1).t().relu_()) == 2 * MIB


def test_attention_does_not_store_its_scores() -> None:
    def attend(module: Any, dtype: Any, x: Any) -> Any:
        heads = x.reshape(1, 1, 1024, 256)
        return torch.nn.functional.scaled_dot_product_attention(heads, key=heads, value=heads)

    assert called(attend) == 2 * MIB  # 1024 x 1024 scores would be 4 MiB more


def test_a_type_of_half_the_width_costs_half() -> None:
    assert called(lambda m, d, x: x.half()) == MIB + MIB // 2


def test_counting_ends_with_the_context() -> None:
    with LiveBytes() as counted:
        x = torch.empty(MIB, dtype=torch.uint8)
    y = x + x
    del x, y
    assert counted.peak == MIB


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_network_of_every_family_is_counted(family: FamilyUnderTest, precision: Any) -> None:
    """Twice the rows need about twice the memory; no call needs less than its tensors."""
    checkpoint: Checkpoint = family.checkpoint
    for network in checkpoint.family.networks:
        spec = checkpoint.spec(network.name, (64, 64), precision=precision)
        one, two = call_memory(checkpoint, [spec, spec], [1, 2])
        tensors = (*spec.inputs, *spec.outputs)
        numbers = sum(torch.Size(t.shape).numel() for t in tensors)
        assert one.working > 4 * numbers
        assert one.working < two.working <= 2 * one.working + 4096
        if network.role != "text_encoder":  # T5 has one position bias for all rows
            assert two.working > 1.8 * one.working
