"""What the backends are tested on: the tiny checkpoint, and what the exporter makes of it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from engine.manifest import Manifest
from engine.netspec import Precision
from export.build import build
from tests.shared import CommandBuild, shared

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
def onnx_folder(
    tiny: Path, command_build: CommandBuild, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """All four networks at 64 x 96, fp32, UNet profiles 1, 2, 4, and no engines. Read only."""

    def make(new: Path) -> None:
        out = new / "out"
        if command_build.code == 0:  # not where TensorRT for RTX is missing
            without_engines(command_build.out, out)
        exported(tiny, out, "fp32")  # only profiles differ: the copied files are kept

    return shared(tmp_path_factory, "onnx-fp32", make) / "out"


@pytest.fixture(scope="session")
def onnx_folder_fp16(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in fp16. Read only."""
    folder = shared(tmp_path_factory, "onnx-fp16", lambda new: exported(tiny, new / "out", "fp16"))
    return folder / "out"
