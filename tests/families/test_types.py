"""Networks in half precision join tensors of one type only: ONNX has no type promotion there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from engine.netspec import Precision
from export.half_precision import HalfPrecisionEmulation
from export.networks import load, sample, wrap
from tests.families.conftest import FamilyUnderTest

JOINS = (torch.cat, torch.concat, torch.concatenate, torch.stack, torch.hstack, torch.vstack)


class JoinedTypes(TorchFunctionMode):
    """Records the sets of types that are joined."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[set[torch.dtype]] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func in JOINS:
            self.seen.append({tensor.dtype for tensor in args[0]})
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_no_network_joins_tensors_of_two_types(
    family: FamilyUnderTest, precision: Precision
) -> None:
    checkpoint = family.checkpoint
    for network in checkpoint.family.networks:
        spec = checkpoint.spec(network.name, (64, 64), precision=precision)
        module = wrap(network, load(checkpoint, network.part), precision)
        with torch.inference_mode(), HalfPrecisionEmulation(), JoinedTypes() as joined:
            module(*sample(spec, 1, vocabulary=100))
        assert all(len(types) == 1 for types in joined.seen), (network.name, joined.seen)
