"""The API reference at /docs, as one HTML page made from the OpenAPI document.

It has no scripts, so the server's Content-Security-Policy allows it, and it needs no other host.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from html import escape
from typing import Any

from diffedit.server.field_schemas import PATTERN_MEANINGS
from diffedit.server.form_body import MULTIPART

Schema = dict[str, Any]
BASE = "BASE-ADDRESS"
"""Stands in the page for the address of the server."""
INTRODUCTION = (
    "Every request of a server with API keys needs the header "
    "<code>Authorization: Bearer KEY</code>. Errors have the form "
    '<code>{"error": {"message", "type", "param", "code"}}</code>, and every response has an '
    "<code>X-Request-Id</code>. Responses 429 and 503 state in <code>Retry-After</code> when to "
    'try again. The same reference for programs is <a href="/openapi.json">openapi.json</a>.'
)


def render(document: Schema) -> str:
    """The page. `BASE` in it is to be replaced by the server's address.

    Args:
        document: an OpenAPI document.
    """
    operations = [
        (method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    title = escape(f"{document['info']['title']} {document['info']['version']}")
    links = "".join(
        f'<li><a href="#{_anchor(method, path)}"><b>{method}</b> {escape(path)}</a></li>'
        for method, path, _ in operations
    )
    sections = "".join(_section(*operation) for operation in operations)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>API of {title}</title>"
        '<link rel="icon" href="/icon.svg" type="image/svg+xml">'
        '<link rel="stylesheet" href="/docs.css"></head><body>'
        f'<header><a href="/">Back to the page</a><h1>{title}</h1>'
        f"<p>{escape(document['info'].get('summary', ''))}</p><p>{INTRODUCTION}</p></header>"
        f'<nav aria-label="Endpoints"><ul>{links}</ul></nav><main>{sections}</main></body></html>\n'
    )


def type_in_words(schema: Schema) -> str:
    """A field's type, allowed values, range and pattern."""
    if "enum" in schema:
        return ", ".join(json.dumps(value) for value in schema["enum"])
    kind = schema.get("type", "")
    words = " or ".join(kind) if isinstance(kind, list) else str(kind)
    if schema.get("format") == "binary":
        words = "file"
    if schema.get("contentMediaType"):
        words = f"{words} of {schema['contentMediaType']}"
    bounds = {
        "minimum": "from {:g}",
        "exclusiveMinimum": "above {:g}",
        "maximum": "up to {:g}",
        "maxLength": "of up to {:g} characters",
    }
    ranges = [text.format(schema[key]) for key, text in bounds.items() if key in schema]
    return " ".join([words, *ranges])


def pattern_in_words(schema: Schema) -> str:
    """What a field's pattern requires; "" without a pattern."""
    pattern = schema.get("pattern", "")
    return PATTERN_MEANINGS.get(pattern, f"as {pattern}" if pattern else "")


def _section(method: str, path: str, operation: Schema) -> str:
    summary = escape(operation.get("summary", ""))
    heading = f"<h2><b>{method}</b> <code>{escape(path)}</code></h2><h3>{summary}</h3>"
    text = "".join(
        f"<p>{_with_code(' '.join(part.split()))}</p>"
        for part in operation.get("description", "").split("\n\n")
        if part
    )
    content = "".join(
        [
            heading,
            text,
            f"<pre><code>{escape(_command(method, path, operation))}</code></pre>",
            *_inputs(operation),
            _table(["status", "meaning", "content"], map(_response, _responses(operation))),
        ]
    )
    return f'<section id="{_anchor(method, path)}">{content}</section>'


def _inputs(operation: Schema) -> Iterator[str]:
    """The tables of parameters and of the form's fields."""
    parameters = [
        (f"{one['name']} ({one['in']})", one.get("schema", {}), one.get("description", ""))
        for one in operation.get("parameters", [])
    ]
    if parameters:
        yield _table(["parameter", "type", "default", "meaning"], map(_field, parameters))
    contents = operation.get("requestBody", {}).get("content", {})
    for media_type, content in contents.items():
        schema = content["schema"]
        required = schema.get("required", [])
        fields = [
            (name + (" (required)" if name in required else ""), one, one.get("description", ""))
            for name, one in schema.get("properties", {}).items()
        ]
        yield f"<p>Form, <code>{escape(media_type)}</code>:</p>"
        yield _table(["field", "type", "default", "meaning"], map(_field, fields))


def _field(item: tuple[str, Schema, str]) -> tuple[str, ...]:
    name, schema, description = item
    kind = ", ".join(filter(None, (type_in_words(schema), pattern_in_words(schema))))
    default = json.dumps(schema["default"]) if "default" in schema else ""
    return name, kind, default, description


def _responses(operation: Schema) -> Iterable[tuple[str, Schema]]:
    return sorted((str(status), response) for status, response in operation["responses"].items())


def _response(item: tuple[str, Schema]) -> tuple[str, ...]:
    status, response = item
    parts = []
    for media_type, content in response.get("content", {}).items():
        names = ", ".join(content.get("schema", {}).get("properties", {}))
        parts.append(media_type + (f": {names}" if names else ""))
    return status, response.get("description", ""), "; ".join(parts)


def _command(method: str, path: str, operation: Schema) -> str:
    """An example with curl."""
    words = ["curl", f"{BASE}{path.replace('{', '').replace('}', '').replace('_id', '-ID')}"]
    words += ["-X", method] if method == "DELETE" else []
    contents = operation.get("requestBody", {}).get("content", {})
    if "image" in contents.get(MULTIPART, {}).get("schema", {}).get("properties", {}):
        words += ["-F image=@photo.png", '-F prompt="a bowl of pears"']
        words += ['-F source_prompt="a bowl of apples"']
    elif contents:
        words += ["-d threshold=0.4"]
    return " ".join(words)


def _with_code(text: str) -> str:
    """Escaped text; what is between backticks is code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))


def _table(head: Iterable[str], rows: Iterable[tuple[str, ...]]) -> str:
    titles = "".join(f'<th scope="col">{escape(title)}</th>' for title in head)
    lines = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{_with_code(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    table = f"<table><thead><tr>{titles}</tr></thead><tbody>{lines}</tbody></table>"
    return f'<div class="wide" tabindex="0">{table}</div>'


def _anchor(method: str, path: str) -> str:
    plain = "".join(c if c.isalnum() else "-" for c in path.strip("/"))
    return escape(f"{method.lower()}-{plain}")
