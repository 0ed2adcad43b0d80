"""Norms on the meta device have PyTorch's shapes and PyTorch's errors, and skip its Python code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from engine.shape_run import NormShapes

FITTING = {
    "group": (nn.GroupNorm(2, 6), (3, 6, 4, 5)),
    "group without weights": (nn.GroupNorm(3, 6, affine=False), (2, 6, 7)),
    "layer": (nn.LayerNorm(8), (2, 3, 8)),
    "layer of two sides": (nn.LayerNorm((4, 8)), (2, 4, 8)),
    "layer without weights": (nn.LayerNorm(8, elementwise_affine=False), (5, 8)),
}
MISFITS = {
    "group of other channels": (nn.GroupNorm(2, 6), (1, 8, 4, 4)),
    "channels that do not divide": (nn.GroupNorm(3, 6, affine=False), (1, 8, 4, 4)),
    "layer of another width": (nn.LayerNorm(8), (2, 3, 6)),
}


class Operators(TorchDispatchMode):
    """The names of the operators that ran."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", FITTING)
def test_a_norm_has_the_shape_and_type_of_its_input(case: str, dtype: torch.dtype) -> None:
    module, shape = FITTING[case]
    x = torch.empty(shape, device="meta", dtype=dtype)
    with torch.inference_mode(), Operators() as ran, NormShapes():
        out = module.to("meta", dtype)(x)
    assert (out.shape, out.dtype, out.device.type) == (x.shape, dtype, "meta")
    assert "new_empty" in ran.names and not any("norm" in name for name in ran.names)


@pytest.mark.parametrize("case", MISFITS)
def test_a_norm_that_does_not_fit_is_an_error(case: str) -> None:
    module, shape = MISFITS[case]
    with pytest.raises(RuntimeError), torch.inference_mode(), NormShapes():
        module.to("meta")(torch.empty(shape, device="meta"))


def test_an_input_by_its_name_is_left_to_pytorch() -> None:
    x = torch.empty((2, 8), device="meta")
    with torch.inference_mode(), NormShapes():
        assert nn.functional.layer_norm(input=x, normalized_shape=(8,)).shape == x.shape


def test_values_are_computed_elsewhere() -> None:
    x = torch.arange(12.0).reshape(1, 6, 2)
    norm = nn.GroupNorm(2, 6)
    with NormShapes():
        out = norm(x)
    assert torch.equal(out, norm(x))
