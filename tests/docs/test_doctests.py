"""The examples in docstrings give the results that they show."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from docs.generate import doctests

MODULES = doctests.modules()


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module(name: str) -> None:
    tried, report = doctests.run(importlib.import_module(name))
    assert tried > 0 and report == ""


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
    monkeypatch.setattr(doctests, "modules", lambda: ["wrong_example"])
    report = doctests.wrong_examples()
    assert "wrong_example" in report and "Expected:\n    3\nGot:\n    2\n" in report
