"""The OpenAPI description of the forms and answers: made from the tables that read them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from diffedit.request import METHODS, RANGES, EditRequest
from diffedit.server.forms import FIELDS, FORMATS, MASK_FIELDS, SIZE

WORDS = {
    "prompt": "What should be there.",
    "source_prompt": "What is there; empty: whatever is there.",
    "negative_prompt": "What the edit is led away from.",
    "num_inference_steps": "Grid points of the schedule.",
    "strength": "How far the picture may change.",
    "guidance_scale": "How strongly the prompt pulls; 1 is no guidance.",
    "num_maps_per_mask": "Noises the mask is averaged over.",
    "mask_encode_strength": "How much noise the mask is found at.",
    "mask_thresholding_ratio": "Where the map is clipped, in its own means.",
    "mask_dilation": "Latent cells a found mask grows by.",
    "seed": "Of all noise; edit k of n has seed + k.",
    "method": "DiffEdit, or one of the paper's ablations.",
    "composite": "Keep the picture's own pixels outside the mask.",
    "mask_format": "How the mask is read; auto: alpha where it has any, else white = edit.",
    "n": "Edits of consecutive seeds.",
    "size": "auto, or WIDTHxHEIGHT of the picture itself.",
    "response_format": "Pictures come in the answer.",
    "output_format": "Of the edited picture.",
    "output_compression": "Quality of JPEG and WebP.",
    "partial_images": "Previews.",
    "stream": "EncodedEdit with server-sent events.",
    "model": "The served model's id.",
    "user": "Ignored.",
}
_OWN: dict[str, dict[str, Any]] = {
    "prompt": {"type": "string", "pattern": r"\S"},
    "size": {"type": "string", "pattern": f"^({SIZE})$"},
    "method": {"type": "string", "enum": list(METHODS), "default": METHODS[0]},
    "composite": {"type": "boolean", "default": True},
    "mask_format": {
        "type": "string",
        "enum": ["auto", "alpha", "white", "black"],
        "default": "auto",
    },
    "n": {"type": "integer", "minimum": 1, "maximum": 10, "default": 1},
    "response_format": {"type": "string", "enum": ["b64_json"]},
    "output_format": {"type": "string", "enum": list(FORMATS), "default": "png"},
    "output_compression": {"type": "integer", "minimum": 0, "maximum": 100, "default": 95},
    "partial_images": {"type": "integer", "minimum": 0, "maximum": 3, "default": 0},
    "stream": {"type": "boolean", "default": False},
}
DEFAULTS = {f.name: f.default for f in fields(EditRequest) if f.default is not MISSING}


def field_schema(name: str) -> dict[str, Any]:
    """One text field, with its range, default and a sentence."""
    found: dict[str, Any] = dict(_OWN.get(name, {"type": "string"}))
    if name in RANGES:
        allowed = RANGES[name]
        found = {"type": "integer" if allowed.whole else "number", "maximum": allowed.high}
        found["exclusiveMinimum" if allowed.above else "minimum"] = allowed.low
        found["default"] = DEFAULTS[name]
    return {**found, "description": WORDS[name]}


def header(name: str, kind: dict[str, Any], description: str) -> dict[str, Any]:
    """A header that a request may have."""
    return {"name": name, "in": "header", "schema": kind, "description": description}


TIMEOUT = header(
    "X-Request-Timeout",
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1e6},
    "Seconds in which the edit has to be done.",
)
REPEAT = header(
    "Idempotency-Key", {"type": "string", "maxLength": 256}, "Makes repeating an order safe."
)
RESUME = {
    "parameters": [header("Last-Event-ID", {"type": "string"}, "The last event that was seen.")]
}


def form(names: Mapping[str, Any], *headers: dict[str, Any], mask: bool) -> dict[str, Any]:
    """A multipart form, and what a request may have besides, as `openapi_extra`."""
    properties: dict[str, Any] = {
        "image": {
            "type": "string",
            "format": "binary",
            "description": "PNG, JPEG or WebP; also as image[].",
        }
    }
    if mask:
        properties["mask"] = {
            "type": "string",
            "format": "binary",
            "description": "Where to edit, of the picture's size; left out: found by itself.",
        }
    pictures = list(properties)
    properties |= {name: field_schema(name) for name in names}
    schema = {
        "type": "object",
        "required": ["image", "prompt"],
        "properties": properties,
        "additionalProperties": False,
    }
    kinds = {"contentType": ", ".join(f"image/{name}" for name in FORMATS)}
    content = {"schema": schema, "encoding": dict.fromkeys(pictures, kinds)}
    body = {"required": True, "content": {"multipart/form-data": content}}
    return {"requestBody": body, "parameters": [TIMEOUT, *headers]}


EDIT_FORM = form(FIELDS, mask=True)
JOB_FORM = form(FIELDS, REPEAT, mask=True)
MASK_FORM = form(MASK_FIELDS, mask=False)


def record(optional: tuple[str, ...] = (), /, **properties: dict[str, Any]) -> dict[str, Any]:
    """An object that has all of these, but perhaps not the `optional` ones."""
    needed = [name for name in properties if name not in optional]
    return {"type": "object", "required": needed, "properties": properties}


def listed(kind: dict[str, Any], **more: int) -> dict[str, Any]:
    """A list of such things."""
    return {"type": "array", "items": kind, **more}


def named(kind: dict[str, Any]) -> dict[str, Any]:
    """Such things by names."""
    return {"type": "object", "additionalProperties": kind}


TEXT = {"type": "string"}
WHOLE = {"type": "integer", "minimum": 0}
SHARE = {"type": "number", "minimum": 0, "maximum": 1}
PAIR = listed({"type": "integer", "minimum": 1}, minItems=2, maxItems=2)
FIGURES = {
    "seed": WHOLE,
    "mask_share": SHARE,
    "rows": named(WHOLE),
    "timings": named({"type": "number", "minimum": 0}),
    "warnings": listed(TEXT),
}
EDITED = {
    **FIGURES,
    "mask_read_as": {"enum": ["alpha", "white", "black", None]},
    "max_abs_diff_outside_mask": {"type": "integer", "minimum": 0, "maximum": 255},
}
ERROR = record(
    error=record(message=TEXT, type=TEXT, param={"type": ["string", "null"]}, code=TEXT),
)
EDIT = record(
    created=WHOLE,
    output_format={"enum": list(FORMATS)},
    background=TEXT,
    data=listed(record(b64_json=TEXT, mask=TEXT, **EDITED), minItems=1, maxItems=10),
)
MASK = record(mask=TEXT, heatmap=TEXT, cells=PAIR, canvas=PAIR, threshold=SHARE, **FIGURES)
JOB = record(
    ("error", "data"),
    id=TEXT,
    state={"enum": ["queued", "running", "succeeded", "failed", "cancelled"]},
    stage=TEXT,
    progress=SHARE,
    position=WHOLE,
    created=WHOLE,
    error=ERROR["properties"]["error"],
    data=listed(record(**EDITED)),
)
MEANINGS = {
    400: "A field is missing, unknown, given twice or out of range.",
    401: "No key, or an unknown one.",
    403: "Another site's page, or a host name that is not this server's.",
    404: "There is no such thing.",
    405: "Another method.",
    408: "The form did not arrive in time.",
    409: "Not finished yet; try again.",
    410: "The job was cancelled.",
    413: "Too many bytes or pixels.",
    415: "No multipart form, or no PNG, JPEG or WebP.",
    422: "A network gave values that are not finite, or a key was used for another body.",
    429: "The queue is full; `Retry-After` says when to come back.",
    500: "A bug; the log has it under the request id.",
    503: "Loading, shutting down, out of memory or out of time; `Retry-After` says when.",
}


Responses = dict[int | str, dict[str, Any]]


def errors(*statuses: int) -> Responses:
    """Of a route: the errors it may answer with."""
    told: Responses = {}
    for status in (*statuses, 401, 403, 405, 500):
        content = {"application/json": {"schema": ERROR}}
        told[status] = {"description": MEANINGS[status], "content": content}
        if status in (429, 503):
            told[status]["headers"] = {"Retry-After": {"required": True, "schema": WHOLE}}
    return told


def of_type(*kinds: str) -> Responses:
    """Of a route whose answer is no json."""
    return {200: {"description": "As it is.", "content": {kind: {} for kind in kinds}}}


def of_shape(shape: dict[str, Any], *other: str) -> Responses:
    """Of a route whose answer is json of this shape, or of another type."""
    content = {"application/json": {"schema": shape}, **{kind: {} for kind in other}}
    return {200: {"description": "Done.", "content": content}}


ACCEPTED: Responses = {
    202: {
        "description": "Accepted; `Location` is where the job stands.",
        "content": {"application/json": {"schema": JOB}},
        "headers": {"Location": {"required": True, "schema": TEXT}},
    }
}


EDIT_ERRORS = errors(400, 404, 408, 413, 415, 422, 429, 503)


def described(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, without the 422 that FastAPI adds where a path has parameters: they
    are words, so that any will do, and the rest is refused with 400."""
    if app.openapi_schema is None:
        found = get_openapi(
            title=app.title, version=app.version, summary=app.summary, routes=app.routes
        )
        for path in found["paths"].values():
            for operation in path.values():
                if "ValidationError" in json.dumps(operation["responses"].get("422")):
                    del operation["responses"]["422"]
        del found["components"]
        app.openapi_schema = found
    return app.openapi_schema
