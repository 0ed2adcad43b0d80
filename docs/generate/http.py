"""The reference of the HTTP API, from the server's OpenAPI document."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

from diffedit.server import create_app
from diffedit.server.field_schemas import PATTERN_MEANINGS
from diffedit.server.reference import type_in_words
from docs.generate.tables import table

Schema = dict[str, Any]
RESPONSE = ["status", "meaning", "content"]


@cache
def openapi() -> Schema:
    """The document that a server returns at `/openapi.json`. No model is opened."""

    def no_pipeline() -> Any:
        raise AssertionError("the document needs no model")

    document: Schema = create_app(no_pipeline, "model").openapi()
    return document


def http_api() -> str:
    """Every endpoint with its fields, headers and responses, as Markdown."""
    operations = [
        (f"{method.upper()} {path}", operation)
        for path, methods in openapi()["paths"].items()
        for method, operation in methods.items()
    ]
    common = _common_errors([operation for _, operation in operations])
    seen: dict[str, str] = {}
    pages = [part for name, one in operations for part in _operation(name, one, common, seen)]
    rows = [_response(item) for item in sorted(common.items())]
    errors = "Errors that several endpoints return. [Errors](errors.md) lists their codes."
    return "\n\n".join([*pages, "## Errors", errors, table(RESPONSE, rows)])


def _common_errors(operations: list[Schema]) -> dict[str, Schema]:
    """The error responses that are the same for every endpoint that has them, by status."""
    found: dict[str, list[Schema]] = {}
    for operation in operations:
        for status, response in operation["responses"].items():
            found.setdefault(status, []).append(response)
    return {
        status: responses[0]
        for status, responses in found.items()
        if status >= "400" and len(responses) > 1 and all(one == responses[0] for one in responses)
    }


def _operation(
    name: str, operation: Schema, common: dict[str, Schema], seen: dict[str, str]
) -> Iterator[str]:
    """The parts of an endpoint. `seen` maps a table of fields to the endpoint that has it."""
    yield f"## `{name}`"
    yield operation.get("description") or operation.get("summary", "")
    parameters = operation.get("parameters", [])
    if parameters:
        rows = [
            (f"`{p['name']}`", p["in"], _type(p.get("schema", {})), p.get("description", ""))
            for p in parameters
        ]
        yield table(["parameter", "in", "type", "meaning"], rows)
    for media_types, schema in _bodies(operation):
        fields = _fields(schema)
        first = seen.setdefault(fields, name)
        same = "" if first == name else f" the fields of `{first}`."
        yield f"Body, {media_types}:{same}"
        if not same:
            yield fields
    own = {status: r for status, r in operation["responses"].items() if r != common.get(status)}
    yield "Responses:"
    yield table(RESPONSE, map(_response, own.items()))
    shared = ", ".join(sorted(set(operation["responses"]) - set(own)))
    if shared:
        yield f"[Errors](#errors): {shared}."


def _bodies(operation: Schema) -> list[tuple[str, Schema]]:
    """The media types of the body and its schema; those with equal fields together."""
    found: list[tuple[str, Schema]] = []
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        name, schema = f"`{media_type}`", content["schema"]
        if found and found[-1][1]["properties"] == schema["properties"]:
            found[-1] = (f"{found[-1][0]} or {name}", schema)
        else:
            found.append((name, schema))
    return found


def _fields(schema: Schema) -> str:
    required = schema.get("required", [])
    rows = [
        (f"`{name}`", _type(field), _default(name, field, required), field.get("description", ""))
        for name, field in schema.get("properties", {}).items()
    ]
    return table(["field", "type", "default", "meaning"], rows)


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
