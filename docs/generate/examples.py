"""The source of every program in `examples/`, for the site."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from docs.generate.links import ROOT

FOLDER = ROOT / "examples"
_LISTED = re.compile(r"^\| \[([\w.]+)\]", re.MULTILINE)


def listed() -> list[str]:
    """The file names of the programs, in the order of the page's table."""
    return _LISTED.findall((FOLDER / "README.md").read_text())


def examples() -> str:
    """A section with the source of each program, as Markdown."""
    return "\n\n".join(part for name in listed() for part in _section(FOLDER / name))


def _section(path: Path) -> Iterator[str]:
    yield f"## {path.name}"
    if path.suffix != ".ipynb":
        yield _fenced(path.read_text(), "python" if path.suffix == ".py" else "sh")
        return
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        is_code = cell["cell_type"] == "code"
        yield _fenced(source, "python") if is_code else _inner_headings(source)


def _fenced(source: str, language: str) -> str:
    """A block of code that the site's search leaves out: whole programs would fill the results."""
    return f'```{{ .{language} data-search-exclude="" }}\n{source.strip()}\n```'


def _inner_headings(text: str) -> str:
    """Leave out the notebook's title, and put its other headings below the section's."""
    return re.sub(r"^## ", "### ", re.sub(r"^# .*\n", "", text), flags=re.MULTILINE).strip()
