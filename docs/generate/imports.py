"""Who imports whom: a table of the packages, counted in the source."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from docs.generate.links import ROOT
from docs.generate.tables import table

PACKAGES = ("diffedit", "engine", "export")


def import_table() -> str:
    """Rows import columns: the number of modules that do. Every import counts, also inside
    functions and for types alone."""
    counts = count_imports()
    groups = sorted({group for pair in counts for group in pair}, key=_order)
    rows = [(f"`{one}`", *(str(counts[one, other] or "") for other in groups)) for one in groups]
    return table(["imports", *(f"`{group}`" for group in groups)], rows)


@cache
def count_imports() -> Counter[tuple[str, str]]:
    """(importing, imported) packages -> number of modules of the first that import the second."""
    counts: Counter[tuple[str, str]] = Counter()
    for top in PACKAGES:
        for path in sorted((ROOT / top).rglob("*.py")):
            here = _group(_module(path))
            counts.update((here, there) for there in {_group(m) for m in _imports(path)} - {here})
    return counts


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _imports(path: Path) -> Iterator[str]:
    """The modules of this project that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        yield from (name for name in names if name.split(".")[0] in PACKAGES)


def _group(module: str) -> str:
    """The package of a module: `diffedit.cli`, or the top one for a module directly in it."""
    parts = module.split(".")
    inside = len(parts) > 1 and (ROOT / parts[0] / parts[1] / "__init__.py").is_file()
    return ".".join(parts[: 2 if inside else 1])


def _order(group: str) -> tuple[int, str]:
    return PACKAGES.index(group.split(".")[0]), group
