"""The reference of the HTTP API, from the server's OpenAPI document."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

from diffedit.server import create_app
from diffedit.server.field_schemas import PATTERN_MEANINGS
from diffedit.server.reference import type_in_words
from docs.generate.tables import scrolling, table

Schema = dict[str, Any]


@cache
def openapi() -> Schema:
    """The document that a server returns at `/openapi.json`. No model is opened."""

    def no_pipeline() -> Any:
        raise AssertionError("the document needs no model")

    document: Schema = create_app(no_pipeline, "model").openapi()
    return document


def http_api() -> str:
    """Every endpoint with its fields, headers and responses, as Markdown."""
    paths = openapi()["paths"]
    return "\n\n".join(
        "\n\n".join(_operation(method, path, operation))
        for path, methods in paths.items()
        for method, operation in methods.items()
    )


def _operation(method: str, path: str, operation: Schema) -> Iterator[str]:
    yield f"## `{method.upper()} {path}`"
    yield operation.get("description") or operation.get("summary", "")
    parameters = operation.get("parameters", [])
    if parameters:
        rows = [
            (f"`{p['name']}`", p["in"], _type(p.get("schema", {})), p.get("description", ""))
            for p in parameters
        ]
        yield scrolling(table(["parameter", "in", "type", "meaning"], rows))
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"Body, `{media_type}`:"
        yield _fields(content["schema"])
    yield "Responses:"
    yield table(["status", "meaning", "content"], map(_response, operation["responses"].items()))


def _fields(schema: Schema) -> str:
    required = schema.get("required", [])
    rows = [
        (f"`{name}`", _type(field), _default(name, field, required), field.get("description", ""))
        for name, field in schema.get("properties", {}).items()
    ]
    return scrolling(table(["field", "type", "default", "meaning"], rows))


def _default(name: str, field: Schema, required: list[str]) -> str:
    if name in required:
        return "required"
    return f"`{json.dumps(field['default'])}`" if "default" in field else ""


def _response(item: tuple[str, Schema]) -> tuple[str, str, str]:
    status, response = item
    parts = []
    for media_type, content in response.get("content", {}).items():
        properties = content.get("schema", {}).get("properties", {})
        names = ", ".join(f"`{name}`" for name in properties)
        parts.append(f"`{media_type}`" + (f": {names}" if names else ""))
    return status, response.get("description", ""), "; ".join(parts)


def _type(schema: Schema) -> str:
    """A schema in words: the type, the allowed values, the range, the pattern."""
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    pattern = schema.get("pattern", "")
    words = PATTERN_MEANINGS.get(pattern, f"as `{pattern}`" if pattern else "")
    return ", ".join(filter(None, (type_in_words(schema), words)))
