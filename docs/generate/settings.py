"""The server's settings, from the class that reads them."""

from __future__ import annotations

import ast
import inspect
import textwrap
from typing import Any

from diffedit.server.settings import ENVIRONMENT_PREFIX, Settings
from docs.generate.tables import number, table


def settings() -> str:
    """Every setting with its range and default, as a Markdown table."""
    properties = Settings.model_json_schema()["properties"]
    meanings = field_docstrings(Settings)
    rows = [
        (
            f"`{ENVIRONMENT_PREFIX}{name.upper()}`",
            _range(properties[name]),
            _default(field.default),
            meanings[name],
        )
        for name, field in Settings.model_fields.items()
    ]
    return table(["environment variable", "values", "default", "meaning"], rows)


def field_docstrings(cls: type) -> dict[str, str]:
    """The docstring below each field of a class."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(definition, ast.ClassDef)
    found: dict[str, str] = {}
    for field, after in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            text = after.value if isinstance(after, ast.Expr) else None
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                found[field.target.id] = text.value
    return found


def _default(value: Any) -> str:
    if value in (None, ()):
        return "none"
    is_whole = isinstance(value, float) and value.is_integer()
    return f"`{int(value) if is_whole else value}`"


def _range(schema: dict[str, Any]) -> str:
    """The type and bounds of a setting in words."""
    options = [one for one in schema.get("anyOf", [schema]) if one.get("type") != "null"]
    (option,) = options
    kind = {"integer": "whole number", "array": "list, separated by commas", "string": "text"}
    words = [kind.get(option["type"], option["type"])]
    bounds = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "up to"}
    words += [f"{word} {number(option[key])}" for key, word in bounds.items() if key in option]
    return " ".join(words)
