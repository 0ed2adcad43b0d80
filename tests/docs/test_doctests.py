"""The examples in docstrings give the results that they show."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path
from types import ModuleType

import pytest

from docs.generate.links import ROOT

PACKAGES = ("diffedit", "engine", "export")
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
    if ">>> " in path.read_text()
)


def failures(module: ModuleType) -> tuple[int, int]:
    """The number of failed and of run examples in a module."""
    found = doctest.testmod(module)
    return found.failed, found.attempted


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module(name: str) -> None:
    failed, attempted = failures(importlib.import_module(name))
    assert attempted > 0 and failed == 0


def test_requests_sizes_masks_and_schedules_have_examples() -> None:
    expected = {
        "request",
        "several_edits",
        "algorithm.schedule",
        "algorithm.mask",
        "imaging.window",
    }
    assert {f"diffedit.{name}" for name in expected} <= set(MODULES)


def test_a_wrong_example_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wrong_example.py").write_text('"""\n>>> 1 + 1\n3\n"""\n')
    monkeypatch.syspath_prepend(tmp_path)
    assert failures(importlib.import_module("wrong_example")) == (1, 1)
