"""The hooks of the site's build."""

from __future__ import annotations

import logging

import pytest

pytest.importorskip("mkdocs", reason="needs the docs extra")

from mkdocs.exceptions import PluginError

from docs.generate import hooks


@pytest.mark.parametrize(
    ("level", "expected"), [(logging.ERROR, logging.WARNING), (logging.INFO, logging.INFO)]
)
def test_a_quiet_build_counts_warnings(level: int, expected: int) -> None:
    logger = logging.getLogger("mkdocs")
    before = logger.level
    try:
        logger.setLevel(level)
        hooks.on_startup("build", False)
        assert logger.level == expected
    finally:
        logger.setLevel(before)


def test_a_wrong_example_ends_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "wrong_examples", lambda: "Expected 3, got 2")
    with pytest.raises(PluginError, match="Expected 3, got 2"):
        hooks.on_pre_build(None)


def test_a_missing_docstring_ends_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "without_docstring", lambda: ["diffedit.restore"])
    with pytest.raises(PluginError, match=r"no docstring: diffedit\.restore; add one"):
        hooks.on_pre_build(None)
