"""Whether an engine was built for the machine at hand, decided from facts, without a GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.backends.tensorrt.machine import Machine, mismatch
from tests.engine.compiled import BUILT, BUILT_RTX, H200, RTX, entry, spec


@pytest.mark.parametrize(
    ("machine", "built", "reason"),
    [
        (H200, BUILT, None),
        (RTX, BUILT_RTX, None),
        (RTX, {**BUILT_RTX, "compute_capabilities": ()}, None),
        (RTX, {**BUILT_RTX, "compute_capabilities": ("CURRENT",)}, None),
        (
            RTX,
            {**BUILT_RTX, "gpu": "NVIDIA RTX 3090"},
            None,
        ),  # any GPU of a capability
        (H200, {}, None),
        (
            H200,
            {**BUILT, "version": "10.13.2.6"},
            "was built for TensorRT 10.13.2.6, and this machine has TensorRT 10.13.3.9",
        ),
        (
            H200,
            {**BUILT, "gpu": "NVIDIA A100", "compute_capabilities": ("8.0",)},
            "was built for compute capability 8.0 and NVIDIA A100, "
            "and this machine has 9.0 and NVIDIA H200",
        ),
        (
            H200,
            {**BUILT, "gpu": "NVIDIA H100"},
            "was built for NVIDIA H100, and this machine has NVIDIA H200",
        ),
        (
            replace(RTX, compute_capability=(12, 0)),
            BUILT_RTX,
            "was built for compute capability 8.6 or 8.9, and this machine has 12.0",
        ),
        (
            replace(RTX, version="1.8.0.1"),
            BUILT_RTX,
            "was built for TensorRT for RTX 1.7.1.116, "
            "and this machine has TensorRT for RTX 1.8.0.1",
        ),
    ],
)
def test_the_difference_between_build_and_machine_is_described(
    tmp_path: Path, machine: Machine, built: dict[str, Any], reason: str | None
) -> None:
    made = entry(tmp_path, spec("text"), kind=machine.product, **built)
    assert mismatch(made, machine) == reason
