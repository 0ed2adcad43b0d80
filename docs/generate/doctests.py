"""The examples in docstrings, which the site shows: run them and compare their results."""

from __future__ import annotations

import doctest
import importlib
from types import ModuleType

from docs.generate.links import ROOT

PACKAGES = ("diffedit", "engine", "export")


def modules() -> list[str]:
    """The names of the modules that have examples in docstrings."""
    return sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if ">>> " in path.read_text()
    )


def run(module: ModuleType) -> tuple[int, str]:
    """The number of examples in a module, and a report of those with another result."""
    runner = doctest.DocTestRunner(verbose=False)
    report: list[str] = []
    for test in doctest.DocTestFinder().find(module):
        runner.run(test, out=report.append)
    return runner.tries, "".join(report)


def wrong_examples() -> str:
    """A report of every example whose result differs; "" if there is none."""
    return "".join(run(importlib.import_module(name))[1] for name in modules())
