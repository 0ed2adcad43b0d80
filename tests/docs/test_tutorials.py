"""Every command of the tutorials runs, in order, with the demo's model."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.generate.console import commands
from docs.generate.links import ROOT
from tests.docs.commands import run

TUTORIALS = sorted((ROOT / "docs/tutorials").glob("*.md"))


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_a_tutorial_has_commands_that_are_understood(page: Path) -> None:
    assert commands(page)
    assert all(words[0] in ("diffedit-trt", "python") for words in commands(page))


@pytest.mark.slow
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_every_command_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for words in commands(page, tmp_path):
        run(words, monkeypatch)
    written = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    named = {Path(w).name for words in commands(page) for w in words if w[-4:] == ".png"}
    assert named <= written
