"""The OpenAPI document. Field schemas come from the tables that parse and validate the fields."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from diffedit.presets import DECIDED, DEFAULT_PRESET, PRESET_NAMES, default_text, preset_help
from diffedit.request import METHODS, RANGES, EditRequest
from diffedit.server.form_fields import (
    ID_PATTERN,
    IGNORED_FIELDS,
    MASK_TEXT_FIELDS,
    OUTPUT_FORMATS,
    SIZE_PATTERN,
    TEXT_FIELDS,
)

Schema = dict[str, Any]
Responses = dict[int | str, dict[str, Any]]

DESCRIPTIONS = {
    "prompt": "What the edited image should show.",
    "source_prompt": "What the image shows now; helps to find the mask.",
    "negative_prompt": "What the edit should avoid.",
    "num_inference_steps": "Number of steps of the noise schedule.",
    "strength": "How far the image may change; 1 changes it most.",
    "guidance_scale": "How closely the edit follows the prompt; 1 turns guidance off.",
    "num_maps_per_mask": "Number of noise samples the mask is averaged over.",
    "mask_encode_strength": "Noise level at which the mask is found.",
    "mask_thresholding_ratio": "Clip the differences at this multiple of their mean.",
    "mask_dilation": "Grow the mask by this many latent cells.",
    "seed": "Seed of all noise; edit k of n uses seed + k.",
    "method": "DiffEdit, or one of the paper's ablations.",
    "preset": f"Set of defaults; every option overrides it. {preset_help()}",
    "composite": "Keep the original pixels outside the mask.",
    "mask_format": "Which pixels of the mask are edited: transparent (alpha), white or black ones. "
    "auto: alpha if the mask has transparent pixels, else white.",
    "n": "Number of edits, with consecutive seeds.",
    "size": "Ignored: the result has the image's size. Another WIDTHxHEIGHT gives a warning.",
    "quality": "Ignored with a warning, unless auto.",
    "complexity": "Ignored with a warning.",
    "input_fidelity": "Ignored with a warning; the image outside the mask is always kept.",
    "moderation": "Ignored with a warning, unless auto; nothing is filtered.",
    "background": "auto: transparent parts of the image stay so. opaque: they become white.",
    "response_format": "Images are returned inside the JSON response.",
    "output_format": "File format of the edited image.",
    "output_compression": "Quality of JPEG and WebP.",
    "partial_images": "Number of previews.",
    "stream": "Respond with server-sent events.",
    "model": "Name of the served model.",
    "mask_id": "Use the mask with this id instead of a file; see mask_id and edit_id in responses.",
    "previous_edit_id": "Continue from the result with this edit_id instead of an image file.",
    "user": "Ignored.",
    "safety_identifier": "Ignored.",
}
DEFAULTS = {f.name: f.default for f in fields(EditRequest) if f.default is not MISSING}
FIELD_SCHEMAS: dict[str, Schema] = {
    **{name: {"type": "string", "enum": list(values)} for name, values in IGNORED_FIELDS.items()},
    "background": {"type": "string", "enum": ["auto", "opaque"]},
    "prompt": {"type": "string", "pattern": r"\S"},
    "size": {"type": "string", "pattern": f"^({SIZE_PATTERN})$"},
    "method": {"type": "string", "enum": list(METHODS), "default": METHODS[0]},
    "preset": {"type": "string", "enum": list(PRESET_NAMES), "default": DEFAULT_PRESET},
    "composite": {"type": "boolean", "default": True},
    "mask_format": {
        "type": "string",
        "enum": ["auto", "alpha", "white", "black"],
        "default": "auto",
    },
    "n": {"type": "integer", "minimum": 1, "maximum": 10, "default": 1},
    "response_format": {"type": "string", "enum": ["b64_json"]},
    "output_format": {"type": "string", "enum": list(OUTPUT_FORMATS), "default": "png"},
    "output_compression": {"type": "integer", "minimum": 0, "maximum": 100, "default": 95},
    "partial_images": {"type": "integer", "minimum": 0, "maximum": 3, "default": 0},
    "stream": {"type": "boolean", "default": False},
    "mask_id": {"type": "string", "pattern": f"^({ID_PATTERN})$"},
    "previous_edit_id": {"type": "string", "pattern": f"^({ID_PATTERN})$"},
}


# -- requests --------------------------------------------------------------------------------------


def field_schema(name: str) -> Schema:
    """The schema of one text field, with range, default and description."""
    schema: Schema = dict(FIELD_SCHEMAS.get(name, {"type": "string"}))
    if name in RANGES:
        allowed = RANGES[name]
        schema = {"type": "integer" if allowed.whole else "number", "maximum": allowed.high}
        schema["exclusiveMinimum" if allowed.above else "minimum"] = allowed.low
        schema["default"] = DEFAULTS[name]
    if name not in DECIDED:
        return {**schema, "description": DESCRIPTIONS[name]}
    schema.pop("default", None)
    return {**schema, "description": f"{DESCRIPTIONS[name]} Default: {default_text(name)}."}


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
        "required": ["prompt"],
        "anyOf": [{"required": ["image"]}, {"required": ["previous_edit_id"]}],
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


# -- responses -------------------------------------------------------------------------------------


def object_schema(optional: tuple[str, ...] = (), /, **properties: Schema) -> Schema:
    """An object whose properties are required, except the `optional` ones."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "required": required, "properties": properties}


def array_schema(items: Schema, **bounds: int) -> Schema:
    """An array."""
    return {"type": "array", "items": items, **bounds}


def map_schema(values: Schema) -> Schema:
    """An object with arbitrary names."""
    return {"type": "object", "additionalProperties": values}


TEXT = {"type": "string"}
TEXT_OR_NULL = {"type": ["string", "null"]}
COUNT = {"type": "integer", "minimum": 0}
FRACTION = {"type": "number", "minimum": 0, "maximum": 1}
WIDTH_HEIGHT = array_schema({"type": "integer", "minimum": 1}, minItems=2, maxItems=2)
FUSED = object_schema(name=TEXT, sha256=TEXT, scale={"type": "number"})
PROVENANCE = object_schema(
    version=TEXT,
    model=TEXT,
    weights=TEXT,
    backend=TEXT,
    precision=TEXT,
    description=TEXT,
    kernels=array_schema(TEXT),
    loras=array_schema(FUSED),
    embeddings=array_schema(FUSED),
)
RESULT_FIELDS = {
    "seed": COUNT,
    "provenance": PROVENANCE,
    "mask_share": FRACTION,
    "rows": map_schema(COUNT),
    "denoiser": TEXT,
    "timings": map_schema({"type": "number", "minimum": 0}),
    "warnings": array_schema(TEXT),
}
EDIT_FIELDS = {
    **RESULT_FIELDS,
    "edit_id": TEXT,
    "previous_edit_id": TEXT_OR_NULL,
    "mask_id": TEXT_OR_NULL,
    "mask_read_as": {"enum": ["alpha", "white", "black", None]},
    "max_abs_diff_outside_mask": {"type": "integer", "minimum": 0, "maximum": 255},
}
MODEL_CARD: dict[str, Schema] = {
    "family": TEXT,
    "native_size": COUNT,
    "size_multiple": COUNT,
    "guidance": {"enum": ["classifier-free", "embedded", "distilled"]},
    "uses_guidance": {"type": "boolean"},
    "uses_negative_prompt": {"type": "boolean"},
    "defaults": map_schema({"type": "number"}),
    "backend": TEXT,
    "weights": TEXT,
    "precision": TEXT,
    "kernels": array_schema(TEXT),
    "loras": array_schema(FUSED),
    "embeddings": array_schema(FUSED),
}
"""Absent while the model is loaded for the first time."""
MODEL = object_schema(
    tuple(MODEL_CARD), id=TEXT, object=TEXT, owned_by=TEXT, created=COUNT, **MODEL_CARD
)
MODELS = object_schema(object=TEXT, data=array_schema(MODEL, minItems=1), limits=map_schema(COUNT))
ERROR = object_schema(
    error=object_schema(message=TEXT, type=TEXT, param={"type": ["string", "null"]}, code=TEXT)
)
EDIT = object_schema(
    created=COUNT,
    output_format={"enum": list(OUTPUT_FORMATS)},
    background=TEXT,
    quality=TEXT,
    size=TEXT,
    data=array_schema(
        object_schema(b64_json=TEXT, mask=TEXT, **EDIT_FIELDS), minItems=1, maxItems=10
    ),
)
MASK = object_schema(
    mask_id=TEXT,
    previous_edit_id=TEXT_OR_NULL,
    mask=TEXT,
    heatmap=TEXT,
    cells=WIDTH_HEIGHT,
    canvas=WIDTH_HEIGHT,
    threshold=FRACTION,
    **RESULT_FIELDS,
)
JOB = object_schema(
    ("error", "data"),
    id=TEXT,
    state={"enum": ["queued", "running", "succeeded", "failed", "cancelled"]},
    stage=TEXT,
    progress=FRACTION,
    position=COUNT,
    created=COUNT,
    error=ERROR["properties"]["error"],
    data=array_schema(object_schema(**EDIT_FIELDS)),
)
STATUS_DESCRIPTIONS = {
    400: "A field is missing, unknown, repeated or invalid.",
    401: "The API key is missing or unknown.",
    403: "The request is cross-origin, or its host name is not allowed.",
    404: "The path, job, image, mask, edit or model does not exist or has expired.",
    405: "The path does not support this method.",
    408: "The form did not arrive in time.",
    409: "The job, or that of an id, has not finished; try again.",
    410: "The job was cancelled.",
    413: "The body has too many bytes or the image too many pixels, or the edit needs more memory "
    "than the server allows.",
    415: "The body is not a multipart form, or the image is neither PNG, JPEG nor WebP.",
    422: "A network returned NaN or infinity, or the Idempotency-Key was used for another form.",
    429: "The queue is full; `Retry-After` gives the seconds to wait.",
    500: "Unexpected error; the server log contains it under the request id.",
    503: "The server is loading, shutting down, out of memory or out of time; `Retry-After` gives "
    "the seconds to wait.",
}


def error_responses(*statuses: int) -> Responses:
    """The error responses of a route: the given ones, and those that every route has."""
    result: Responses = {}
    for status in (*statuses, 401, 403, 405, 500):
        content = {"application/json": {"schema": ERROR}}
        result[status] = {"description": STATUS_DESCRIPTIONS[status], "content": content}
        if status in (429, 503):
            result[status]["headers"] = {"Retry-After": {"required": True, "schema": COUNT}}
    return result


def success(*media_types: str, schema: Schema | None = None) -> Responses:
    """A response of status 200: JSON of this schema, or one of the media types."""
    content: dict[str, Any] = {"application/json": {"schema": schema}} if schema else {}
    content |= {media_type: {} for media_type in media_types}
    return {200: {"description": "Success.", "content": content}}


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
