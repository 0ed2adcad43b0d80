"""The OpenAPI description of the forms and answers: made from the tables that read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from diffedit.request import METHODS, RANGES, EditRequest
from diffedit.server.form import FIELDS, FORMATS, MASK_FIELDS

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
    "stream": "Answer with server-sent events.",
    "model": "The served model's id.",
    "user": "Ignored.",
}
_OWN: dict[str, dict[str, Any]] = {
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


def form(names: Mapping[str, Any], *, mask: bool) -> dict[str, Any]:
    """A multipart form as `openapi_extra`."""
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
    properties |= {name: field_schema(name) for name in names}
    schema = {
        "type": "object",
        "required": ["image", "prompt"],
        "properties": properties,
        "additionalProperties": False,
    }
    return {
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
    }


EDIT_FORM = form(FIELDS, mask=True)
MASK_FORM = form(MASK_FIELDS, mask=False)

ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}
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


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Of a route: the errors it may answer with."""
    content = {"application/json": {"schema": ERROR}}
    common = (401, 403, 405, 500)
    return {s: {"description": MEANINGS[s], "content": content} for s in (*statuses, *common)}


def of_type(*kinds: str) -> dict[int | str, dict[str, Any]]:
    """Of a route whose answer is no json."""
    return {200: {"description": "As it is.", "content": {kind: {} for kind in kinds}}}


EDIT_ERRORS = errors(400, 404, 408, 413, 415, 422, 429, 503)
