"""Run command lines in this process: importing PyTorch for every test would take minutes."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from diffedit.cli import main

FAST = ("--preset", "paper", "--steps", 2, "--mask-thresholding-ratio", 1, "--dtype", "fp32")
"""Few steps, a ratio at which the random model's mask is neither empty nor full, and the preset
that does not clean this mask away."""
PROMPTS = ("--prompt", "a blue ball", "--source", "a red ball")

TERMINAL_VARIABLES = (
    *("COLUMNS", "LINES", "TERM", "TERMINAL_WIDTH", "NO_COLOR", "FORCE_COLOR", "PY_COLORS"),
    *("CLICOLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "GITHUB_ACTIONS"),
)


@dataclass(frozen=True)
class Outcome:
    """Exit code and output of a command line."""

    code: int
    out: bytes
    err: str

    @property
    def line(self) -> dict[str, Any]:
        """The only line of JSON on standard output."""
        (line,) = self.lines
        return line

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.decode().splitlines()]


Cli = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the developer's settings from the commands."""
    for name in list(os.environ):
        if name.startswith("DIFFEDIT_") or name in TERMINAL_VARIABLES:
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "100")
    # typer reads these two from the environment when it is imported, perhaps before this fixture.
    monkeypatch.setattr("typer.rich_utils.FORCE_TERMINAL", None)
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", None)


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch) -> Cli:
    """`cli("edit", "in.png", ..., stdin=b"")` runs a command line to its end."""

    def run(*arguments: object, stdin: bytes = b"") -> Outcome:
        out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
        err = io.StringIO()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            with pytest.raises(SystemExit) as end:
                main([str(argument) for argument in arguments])
        assert isinstance(end.value.code, int | None)
        data: io.BytesIO = out.buffer
        return Outcome(end.value.code or 0, data.getvalue(), err.getvalue())

    return run


@pytest.fixture
def work(tmp_path: Path, tiny: Path, photo: Image.Image, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, which contains only in.png. DIFFEDIT_MODEL is the tiny model."""
    monkeypatch.setenv("DIFFEDIT_MODEL", str(tiny))
    monkeypatch.chdir(tmp_path)
    photo.save("in.png")
    return tmp_path


def check_refused(outcome: Outcome, code: int, *words: str) -> None:
    """The exit code, one sentence on standard error with these words, and no stack trace."""
    messages = [line for line in outcome.err.splitlines() if not line.startswith("backend:")]
    assert outcome.code == code, outcome.err
    assert len(messages) == 1, outcome.err
    for word in words:
        assert word in messages[0]


def snapshot(folder: Path) -> dict[str, bytes]:
    """The path and contents of every file in a folder."""
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
