"""Which package imports which: a table of the packages, counted in the source."""

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
    """The packages that each package imports, with the number of its modules that import them.

    Every import counts, also inside functions and for type annotations.
    """
    counts = count_imports()
    groups = sorted({group for pair in counts for group in pair}, key=_order)
    rows = []
    for one in groups:
        imported = [f"`{other}` {counts[one, other]}" for other in groups if counts[one, other]]
        rows.append((f"`{one}`", ", ".join(imported) or "none"))
    return table(["package", "imports, with the number of modules that import it"], rows)


@cache
def count_imports() -> Counter[tuple[str, str]]:
    """(importing, imported) packages -> number of modules of the first that import the second."""
    counts: Counter[tuple[str, str]] = Counter()
    for module, imported in module_graph().items():
        here = group_of(module)
        counts.update((here, there) for there in {group_of(m) for m in imported} - {here})
    return counts


def module_graph(*, types: bool = True) -> dict[str, set[str]]:
    """Module -> the modules of this project that it imports.

    Args:
        types: include the imports for type annotations, under `if TYPE_CHECKING`.
    """
    paths = [path for top in PACKAGES for path in sorted((ROOT / top).rglob("*.py"))]
    modules = {_module(path): path for path in paths}
    return {
        module: {_known(name, modules) for name in _imports(path, types=types)} - {module}
        for module, path in modules.items()
    }


def group_of(module: str) -> str:
    """The package of a module: `diffedit.cli`, or the top one for a module directly in it."""
    parts = module.split(".")
    inside = len(parts) > 1 and (ROOT / parts[0] / parts[1] / "__init__.py").is_file()
    return ".".join(parts[: 2 if inside else 1])


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _known(name: str, modules: dict[str, Path]) -> str:
    """The module that an import of `name` reads: `name`, or the module that defines it."""
    while name not in modules:
        name = name.rpartition(".")[0]
    return name


def _imports(path: Path, *, types: bool) -> Iterator[str]:
    """The names that a file imports from this project."""
    tree = ast.parse(path.read_text())
    skipped = set() if types else {id(node) for node in _for_types(tree)}
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        if id(node) not in skipped:
            yield from (name for name in names if name.split(".")[0] in PACKAGES)


def _for_types(tree: ast.Module) -> Iterator[ast.AST]:
    """Every node under `if TYPE_CHECKING`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for statement in node.body:
                yield from ast.walk(statement)


def _order(group: str) -> tuple[int, str]:
    return PACKAGES.index(group.split(".")[0]), group
