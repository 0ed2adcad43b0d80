"""The error codes of the HTTP API, collected from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any, NamedTuple

from diffedit.server.app import HTTP_ERRORS
from docs.generate.links import ROOT
from docs.generate.tables import table

ERRORS = {"ApiError": ["status", "code"], "InvalidRequest": ["message"]}
"""The classes that have a code, and their positional parameters."""
COMPUTED = {
    ("diffedit/server/earlier_results.py", "no_such_mask"): 404,
    ("diffedit/server/earlier_results.py", "no_such_edit"): 404,
    ("diffedit/server/form_body.py", "malformed_form"): 400,
}
"""Codes that the source composes: file and code -> status."""


class ErrorCode(NamedTuple):
    """An error response of the server."""

    status: int
    code: str
    file: str


def error_codes() -> str:
    """Every status and code with the files that use it, as a Markdown table."""
    files: dict[tuple[int, str], set[str]] = {}
    for found in find_error_codes():
        files.setdefault((found.status, found.code), set()).add(found.file)
    rows = [
        (str(status), f"`{code}`", ", ".join(f"`{name}`" for name in sorted(names)))
        for (status, code), names in sorted(files.items())
    ]
    return table(["status", "code", "where it is made"], rows)


def find_error_codes() -> Iterator[ErrorCode]:
    """Every call in `diffedit/` of a function with a parameter named `code`, such as `ApiError`."""
    for path in sorted((ROOT / "diffedit").rglob("*.py")):
        tree = ast.parse(path.read_text())
        makers = {**ERRORS, **dict(_makers(tree))}
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            if isinstance(call.func, ast.Name) and call.func.id in makers:
                given = _given(call, makers[call.func.id])
                for code in (c for c in _constants(given.get("code"), str) if c[-1:] != "_"):
                    for status in _constants(given.get("status"), int) or [400]:
                        yield ErrorCode(status, code, str(path.relative_to(ROOT)))
    for status, (code, _) in HTTP_ERRORS.items():
        yield ErrorCode(status, code, "diffedit/server/app.py")
    for (file, code), status in COMPUTED.items():
        yield ErrorCode(status, code, file)


def _makers(tree: ast.Module) -> Iterator[tuple[str, list[str]]]:
    """The functions of a module with an error code as a parameter, and their parameters."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            names = [one.arg for one in node.args.args]
            if "code" in names:
                yield node.name, names


def _given(call: ast.Call, names: list[str]) -> dict[str, ast.expr]:
    by_name = {one.arg: one.value for one in call.keywords if one.arg}
    return dict(zip(names, call.args, strict=False)) | by_name


def _constants(node: ast.expr | None, kind: type) -> list[Any]:
    """The constants of a type in an expression: both branches of `a if condition else b`."""
    nodes = ast.walk(node) if node is not None else ()
    return [n.value for n in nodes if isinstance(n, ast.Constant) and type(n.value) is kind]
