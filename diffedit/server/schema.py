"""The OpenAPI document. Field schemas come from the tables that parse and validate the fields."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from diffedit.server.field_schemas import BLANK_TEXT, VISIBLE_TEXT, field_schema
from diffedit.server.form_fields import MASK_TEXT_FIELDS, OUTPUT_FORMATS, TEXT_FIELDS
from diffedit.server.response_schemas import (
    EDIT,
    JOB,
    MASK,
    MODEL,
    MODELS,
    TEXT,
    Responses,
    Schema,
    error_responses,
    success,
)

WITH_PROMPT = {
    "required": ["prompt"],
    "properties": {"prompt": {"pattern": VISIBLE_TEXT}},
    "not": {"required": ["edits"]},
}
WITH_EDITS = {
    "required": ["edits"],
    "properties": {name: {"pattern": BLANK_TEXT} for name in ("prompt", "source_prompt")},
}
"""A form of one edit, and one of several."""


# -- requests --------------------------------------------------------------------------------------


def header(name: str, schema: Schema, description: str) -> Schema:
    """An optional request header."""
    return {"name": name, "in": "header", "schema": schema, "description": description}


def multipart_form(names: Mapping[str, Any], *headers: Schema, mask: bool) -> Schema:
    """A multipart form and the request headers, as FastAPI's `openapi_extra`."""
    files = {
        "image": "PNG, JPEG or WebP file. The field name image[] works as well. Required unless "
        "previous_edit_id is given."
    }
    if mask:
        files["mask"] = (
            "The area to edit, in the same size as the image. Without it, the mask is found from "
            "the prompts."
        )
    binary = {"type": "string", "format": "binary"}
    properties = {name: {**binary, "description": text} for name, text in files.items()}
    schema = {
        "type": "object",
        "allOf": [
            {"anyOf": [{"required": ["image"]}, {"required": ["previous_edit_id"]}]},
            {"anyOf": [WITH_PROMPT, WITH_EDITS]},
        ],
        "properties": properties | {name: field_schema(name) for name in names},
        "additionalProperties": False,
    }
    file_types = {"contentType": ", ".join(f"image/{name}" for name in OUTPUT_FORMATS)}
    content = {"schema": schema, "encoding": dict.fromkeys(files, file_types)}
    body = {"required": True, "content": {"multipart/form-data": content}}
    return {"requestBody": body, "parameters": [REQUEST_TIMEOUT, *headers]}


REQUEST_TIMEOUT = header(
    "X-Request-Timeout",
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1e6},
    "Time limit of the edit in seconds.",
)
IDEMPOTENCY_KEY = header(
    "Idempotency-Key",
    {"type": "string", "maxLength": 256},
    "Repeating a request with the same key and form returns the same job.",
)
LAST_EVENT_ID = header("Last-Event-ID", {"type": "string"}, "Id of the last event received.")


# -- responses of routes ---------------------------------------------------------------------------

ACCEPTED: Responses = {
    202: {
        "description": "Accepted; `Location` is the path of the job.",
        "content": {"application/json": {"schema": JOB}},
        "headers": {"Location": {"required": True, "schema": TEXT}},
    }
}
EDIT_ERRORS = error_responses(400, 404, 408, 409, 413, 415, 422, 429, 503)
RESULT_ERRORS = error_responses(400, 404, 409, 410, 413, 415, 422, 503)


# -- routes ----------------------------------------------------------------------------------------

EDIT_ROUTE = {
    "openapi_extra": multipart_form(TEXT_FIELDS, IDEMPOTENCY_KEY, mask=True),
    "responses": success("text/event-stream", schema=EDIT) | EDIT_ERRORS,
}
MASK_ROUTE = {
    "openapi_extra": multipart_form(MASK_TEXT_FIELDS, IDEMPOTENCY_KEY, mask=False),
    "responses": success(schema=MASK) | EDIT_ERRORS,
}
SUBMIT_ROUTE = {
    "openapi_extra": multipart_form(TEXT_FIELDS, IDEMPOTENCY_KEY, mask=True),
    "responses": ACCEPTED | EDIT_ERRORS,
}
JOB_ROUTE = {"responses": success(schema=JOB) | error_responses(404)}
EVENTS_ROUTE = {
    "openapi_extra": {"parameters": [LAST_EVENT_ID]},
    "responses": success("text/event-stream") | error_responses(404),
}
IMAGE_ROUTE = {"responses": success(*(f"image/{n}" for n in OUTPUT_FORMATS)) | RESULT_ERRORS}
MASK_IMAGE_ROUTE = {"responses": success("image/png") | RESULT_ERRORS}
METRICS_ROUTE = {"responses": success("text/plain") | error_responses()}
READY_ROUTE = {"responses": error_responses(503)}
PLAIN_ROUTE = {"responses": error_responses()}
MODELS_ROUTE = {"responses": success(schema=MODELS) | error_responses()}
MODEL_ROUTE = {"responses": success(schema=MODEL) | error_responses(404)}


def openapi_document(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document, created once.

    FastAPI adds a 422 response to routes with path parameters. This removes it, since this server
    answers invalid parameters with 400.
    """
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, summary=app.summary, routes=app.routes
        )
        for path in document["paths"].values():
            for operation in path.values():
                if "ValidationError" in json.dumps(operation["responses"].get("422")):
                    del operation["responses"]["422"]
        del document["components"]
        app.openapi_schema = document
    return app.openapi_schema
