"""The OpenAPI document. Field schemas come from the tables that parse and validate the fields."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from diffedit.presets import DECIDED, DEFAULT_PRESET, PRESET_NAMES, default_text, preset_help
from diffedit.request import CLEANINGS, METHODS, RANGES, EditRequest
from diffedit.server.form_fields import (
    ID_PATTERN,
    IGNORED_FIELDS,
    INTERVAL_PATTERN,
    MASK_TEXT_FIELDS,
    OUTPUT_FORMATS,
    PREVIEW_SIDE,
    PREVIEW_SIDES,
    SIZE_PATTERN,
    TEXT_FIELDS,
)
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

DESCRIPTIONS = {
    PREVIEW_SIDE: "Longest side, in pixels, of the masks in the response, for display. The "
    "mask itself keeps the image's size. Default: the image's.",
    "prompt": "What the edited image should show.",
    "source_prompt": "What the image shows now; helps to find the mask.",
    "negative_prompt": "What the edit should avoid.",
    "num_inference_steps": "Number of steps of the noise schedule.",
    "strength": "How far the image may change; 1 changes it most.",
    "guidance_scale": "How closely the edit follows the prompt; 1 turns guidance off.",
    "num_maps_per_mask": "Number of noise samples the mask is averaged over.",
    "mask_encode_strength": "Noise level at which the mask is found.",
    "mask_thresholding_ratio": "Clip the differences at this multiple of their mean.",
    "guidance_interval": "LOW,HIGH: guide only at noise levels in this part of the schedule.",
    "inversion_stride": "Levels of the inversion that share one row of the denoiser.",
    "mask_tolerance": "Stop adding noise samples once the last one changes at most this share of "
    "the mask.",
    "mask_threshold": "Value of the heatmap above which a cell is edited.",
    "mask_cleaning": "none: the mask as in the paper. clean: blurred, without holes and specks. "
    "edges: cleaned, and its border follows the picture.",
    "mask_feather": "Width of the fade at the mask's outline, as a share of the longer side.",
    "mask_dilation": "Grow the mask by this many latent cells.",
    "n_max": "FlowEdit: the level at which the edit begins.",
    "n_min": "FlowEdit: the level below which ordinary steps follow.",
    "n_avg": "FlowEdit: number of noise samples a step is averaged over.",
    "source_guidance_scale": "FlowEdit: guidance under the source prompt.",
    "step_scale": "ChordEdit: factor on the edit's field.",
    "refining_rows": "ChordEdit: predictions after the step, which sharpen.",
    "seed": "Seed of all noise; edit k of n uses seed + k.",
    "method": "DiffEdit, one of the paper's ablations, FlowEdit (SD 3, FLUX.1) or ChordEdit.",
    "preset": f"Set of defaults; every option overrides it. {preset_help()}",
    "focus": "Edit a window around the mask at the networks' full resolution, for sharp edits of "
    "large images. auto: where the image is larger than the canvas and the mask is small.",
    "context_factor": "Sides of that window, relative to the mask's box.",
    "composite": "Keep the original pixels outside the mask.",
    "mask_format": "Which pixels of the mask are edited: transparent (alpha), white or black ones. "
    "auto: alpha if the mask has transparent pixels, else white.",
    "n": "Number of edits, with consecutive seeds.",
    "size": "Ignored: the result has the image's size. A different WIDTHxHEIGHT gives a warning.",
    "quality": "Ignored with a warning, unless auto.",
    "complexity": "Ignored with a warning.",
    "input_fidelity": "Ignored with a warning; the image outside the mask is always kept.",
    "moderation": "Ignored with a warning, unless auto; nothing is filtered.",
    "background": "auto: transparent parts stay transparent. opaque: they become white.",
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
    PREVIEW_SIDE: {
        "type": "integer",
        "minimum": PREVIEW_SIDES[0],
        "maximum": PREVIEW_SIDES[1],
    },
    "prompt": {"type": "string", "pattern": r"\S"},
    "size": {"type": "string", "pattern": f"^({SIZE_PATTERN})$"},
    "guidance_interval": {"type": "string", "pattern": f"^{INTERVAL_PATTERN}$"},
    "method": {"type": "string", "enum": list(METHODS)},
    "mask_cleaning": {"type": "string", "enum": list(CLEANINGS)},
    "preset": {"type": "string", "enum": list(PRESET_NAMES), "default": DEFAULT_PRESET},
    "composite": {"type": "boolean", "default": True},
    "focus": {"type": "string", "enum": ["auto", "true", "false"]},
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
