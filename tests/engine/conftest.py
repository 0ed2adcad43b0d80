"""What the backends are tested on: the tiny checkpoint, and what the exporter makes of it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from engine.manifest import Manifest
from engine.netspec import Precision
from export.build import build
from tests.shared import shared

SIZE = (64, 96)
BATCHES = (1, 2, 4)


def exported(tiny: Path, out: Path, precision: Precision) -> None:
    build(
        str(tiny),
        out,
        sizes=[SIZE],
        precision=precision,
        batches=BATCHES,
        target="onnx",
        verify=False,
    )


def without_engines(built: Path, out: Path) -> Path:
    """Copy the ONNX files of a build, and what its manifest says of them, to a new folder."""
    shutil.copytree(built, out, ignore=shutil.ignore_patterns("*.engine"))
    manifest = Manifest.load(out)
    entries = tuple(entry for entry in manifest.entries if entry.format == "onnx")
    replace(manifest, entries=entries).save(out)
    return out


@pytest.fixture(scope="session")
def onnx_folder(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All four networks at 64 x 96, fp32, U-Net profiles 1, 2, 4, not verified. Read only."""
    folder = shared(tmp_path_factory, "onnx-fp32", lambda new: exported(tiny, new / "out", "fp32"))
    return folder / "out"


@pytest.fixture(scope="session")
def onnx_folder_fp16(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in fp16. Read only."""
    folder = shared(tmp_path_factory, "onnx-fp16", lambda new: exported(tiny, new / "out", "fp16"))
    return folder / "out"
