"""Builds of a single file: the same networks as of its folder, and a manifest that names it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from engine.derived.additions import Additions
from engine.digest import file_digest
from engine.manifest import Manifest
from tests.export.conftest import Build
from tests.single_files import single_file


@pytest.mark.slow
def test_a_build_of_a_single_file(
    tiny: Path,
    tmp_path: Path,
    run: Build,
    only: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    only("text")
    file = single_file(tiny, tmp_path / "one.safetensors")
    _, events = run(file, tmp_path / "out", additions=Additions(base=tiny), verify="none")
    assert "converting the unet" in [event.text for event in events if event.step == "convert"]
    model = Manifest.load(tmp_path / "out").model
    assert model is not None
    assert model.source == str(file)
    assert (model.made_from[0].name, model.made_from[0].sha256) == (file.name, file_digest(file))
    _, again = run(file, tmp_path / "out", additions=Additions(base=tiny), verify="none")
    assert not [e for e in again if e.text.startswith("converting")]
    assert [e.step for e in again if e.step in ("export", "kept")] == ["kept"]
