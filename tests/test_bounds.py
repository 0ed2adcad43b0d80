"""Files have at most 300 lines, and functions at most 60 without their docstring."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = (
    *("benchmarks", "demo", "diffedit", "docs", "engine", "examples", "export", "integrations"),
    "tests",
)
LINES_OF_A_FILE, LINES_OF_A_FUNCTION = 300, 60
LONG_FILES = {
    "diffedit/pipeline.py": "the public methods, half of it their documentation",
    "diffedit/request.py": "the options of an edit, half of it their documentation",
}
"""Files that may be longer, with the reason."""
LONG_FUNCTIONS = {
    "test_ten_first_steps": "one visit of the page, step by step",
    "test_ten_first_steps_with_the_demos_model": "the same with real edits",
}
"""Functions that may be longer, with the reason."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources() -> dict[str, str]:
    """Path from the root -> source, of every Python file."""
    return {
        str(path.relative_to(ROOT)): path.read_text()
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
    }


def length(function: Function) -> int:
    """Lines from `def` to the end, without the docstring.

    Docstrings state shapes, units, ranges and errors, so their length has no bound.
    """
    lines = (function.end_lineno or 0) - function.lineno + 1
    if ast.get_docstring(function) is None:
        return lines
    docstring = function.body[0]
    return lines - ((docstring.end_lineno or 0) - docstring.lineno + 1)


def long_functions(source: str) -> list[str]:
    functions = (node for node in ast.walk(ast.parse(source)) if isinstance(node, Function))
    return [function.name for function in functions if length(function) > LINES_OF_A_FUNCTION]


def test_files_are_short() -> None:
    long = {name for name, text in sources().items() if text.count("\n") > LINES_OF_A_FILE}
    assert long <= set(LONG_FILES), "cut these by concept"


def test_functions_are_short() -> None:
    long = {name for text in sources().values() for name in long_functions(text)}
    assert long <= set(LONG_FUNCTIONS), "cut these by concept"


def test_a_docstring_is_not_counted() -> None:
    lines = "    pass\n" * (LINES_OF_A_FUNCTION - 1)
    docstring = '    """What it does.\n\n    And more.\n    """\n'
    assert long_functions(f"def exact():\n{docstring}{lines}") == []
    one_more = (
        f"class C:\n    async def longer(self):\n        pass\n{lines.replace('    ', '        ')}"
    )
    assert long_functions(one_more) == ["longer"]
