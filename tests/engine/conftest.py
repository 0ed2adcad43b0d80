"""What the backends are tested on: the tiny checkpoint, and what the exporter makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.netspec import Precision
from export.build import build

SIZE = (64, 64)
BATCHES = (1, 2, 4)


def exported(tiny: Path, out: Path, precision: Precision) -> Path:
    build(
        str(tiny),
        out,
        sizes=[SIZE],
        precision=precision,
        batches=BATCHES,
        target="onnx",
        verify=False,
    )
    return out


@pytest.fixture(scope="session")
def onnx_folder(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All four networks at 64 x 64, fp32, UNet profiles 1, 2, 4. Read only."""
    return exported(tiny, tmp_path_factory.mktemp("onnx") / "fp32", "fp32")


@pytest.fixture(scope="session")
def onnx_folder_fp16(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in fp16. Read only."""
    return exported(tiny, tmp_path_factory.mktemp("onnx") / "fp16", "fp16")
