"""The codes of warnings, with the files that use them, collected from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from diffedit.notices import CODES
from docs.generate.links import ROOT
from docs.generate.tables import table


def warning_codes() -> str:
    """Every code with its meaning and the files that use it, as a Markdown table."""
    files: dict[str, set[str]] = {code: set() for code in CODES}
    for code, file in find_warning_codes():
        files[code].add(file)
    rows = [
        (f"`{code}`", meaning, ", ".join(f"`{name}`" for name in sorted(files[code])))
        for code, meaning in sorted(CODES.items())
    ]
    return table(["code", "meaning", "where it is made"], rows)


def find_warning_codes() -> Iterator[tuple[str, str]]:
    """The code and the file of every `Notice(CODE, ...)` in `diffedit/` with a constant code."""
    for path in sorted((ROOT / "diffedit").rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "Notice":
                (code, *_) = call.args
                if isinstance(code, ast.Constant):
                    yield str(code.value), str(path.relative_to(ROOT))
