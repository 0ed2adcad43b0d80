"""The commands of a page of the documentation, and the examples, run in this process."""

from __future__ import annotations

import importlib
import runpy
import shlex
import sys

import pytest

from diffedit.cli import main
from docs.generate.links import ROOT

EXAMPLES = ROOT / "examples"


def run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run `diffedit-trt ...` or `python -m MODULE ...`; fails on an exit code other than 0."""
    if words[0] == "diffedit-trt":
        program, arguments = main, words[1:]
    else:
        assert words[:2] == ["python", "-m"], f"a tutorial runs diffedit-trt or python -m: {words}"
        name = "benchmarks.app" if words[2] == "benchmarks" else words[2]
        program, arguments = importlib.import_module(name).main, words[3:]
    monkeypatch.setattr(sys, "argv", ["program", *arguments])
    code: object = None
    try:
        program()
    except SystemExit as stop:
        code = stop.code
    assert code in (0, None), f"{shlex.join(words)} ended with {code}"


def run_example(name: str, *arguments: object) -> None:
    """Run a program as `python examples/NAME ARGUMENTS` does."""
    before = sys.argv
    sys.argv = [name, *map(str, arguments)]
    try:
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    finally:
        sys.argv = before
