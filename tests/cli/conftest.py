"""The command line in this process (importing PyTorch anew for every test would take minutes)."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from diffedit.cli import main


@dataclass(frozen=True)
class Done:
    """How a command line ended."""

    code: int
    out: bytes
    err: str

    @property
    def line(self) -> dict[str, Any]:
        """The one line of json on standard output."""
        (line,) = self.lines
        return line

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.decode().splitlines()]


Cli = Callable[..., Done]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch) -> Cli:
    """`cli("edit", "in.png", ..., stdin=b"")` runs a command line to its end."""

    def run(*arguments: object, stdin: bytes = b"") -> Done:
        out, err = io.TextIOWrapper(io.BytesIO(), write_through=True), io.StringIO()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            with pytest.raises(SystemExit) as end:
                main([str(argument) for argument in arguments])
        assert isinstance(end.value.code, int | None)
        data: io.BytesIO = out.buffer
        return Done(end.value.code or 0, data.getvalue(), err.getvalue())

    return run


@pytest.fixture
def work(tmp_path: Path, tiny: Path, photo: Image.Image, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with in.png, made the current one; DIFFEDIT_MODEL is the tiny model."""
    monkeypatch.setenv("DIFFEDIT_MODEL", str(tiny))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)
    photo.save("in.png")
    return tmp_path


FAST = ("--steps", 2, "--mask-thresholding-ratio", 1, "--dtype", "fp32")
"""Few steps, and a mask that the random model's noise is enough for."""
TEXTS = ("--prompt", "a blue ball", "--source", "a red ball")
