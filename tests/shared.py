"""Folders that every worker of a parallel test run uses: the first one that needs one makes it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock


def shared(
    tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]
) -> Path:
    """A new folder of this test run, filled by `make`. Read only."""
    base = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        base = base.parent  # that of the worker lies in that of the run
    folder, made = base / "shared" / name, base / "shared" / f"{name}.made"
    folder.parent.mkdir(exist_ok=True)
    with FileLock(folder.with_name(f"{name}.lock")):
        if not made.exists():
            folder.mkdir()
            make(folder)
            made.touch()
    return folder


Folders = Callable[[str], Path]
"""The folder of a kind: of its checkpoint, or of its engines."""


@dataclass(frozen=True)
class CommandBuild:
    """What `python -m export` did, and the folder it left: 4 .onnx files, 4 engines, a manifest.

    Attributes:
        model, out: the checkpoint and the engine folder. Read only.
        options: the other arguments.
        code, stdout, stderr: how the command ended, and its output.
    """

    model: Path
    out: Path
    options: tuple[str, ...]
    code: int
    stdout: str
    stderr: str
