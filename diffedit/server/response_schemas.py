"""The OpenAPI schemas of responses: JSON objects, errors, and the responses of every route."""

from __future__ import annotations

from typing import Any

from diffedit.notices import CODES
from diffedit.request import CLEANINGS
from diffedit.server.form_fields import OUTPUT_FORMATS

Schema = dict[str, Any]
Responses = dict[int | str, dict[str, Any]]


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
    "warning_codes": array_schema({"enum": [*CODES]}),
    "parameters": {"type": "object"},
}
SHAPE_FIELDS: dict[str, Schema] = {
    "threshold": FRACTION,
    "grow": COUNT,
    "blur": {"type": "number", "minimum": 0},
    "cleaning": {"enum": list(CLEANINGS)},
    "invert": {"type": "boolean"},
    "feather": FRACTION,
}
"""How a mask was made from its heatmap."""
EDIT_FIELDS = {
    **RESULT_FIELDS,
    "edit_id": TEXT,
    "previous_edit_id": TEXT_OR_NULL,
    "mask_id": TEXT,
    "window": {
        "anyOf": [array_schema(COUNT, minItems=4, maxItems=4), {"type": "null"}],
        "description": "Left, top, right and bottom of the part that was edited, with focus.",
    },
    "mask_read_as": {"enum": ["alpha", "white", "black", None]},
    "max_abs_diff_outside_mask": {"type": "integer", "minimum": 0, "maximum": 255},
}
PARTS = array_schema(
    object_schema(prompt=TEXT, source_prompt=TEXT, mask_id=TEXT, mask=TEXT, mask_share=FRACTION),
    minItems=1,
)
"""Each of several edits in one pass; absent for one."""
MODEL_CARD: dict[str, Schema] = {
    "family": TEXT,
    "native_size": COUNT,
    "size_multiple": COUNT,
    "guidance": {"enum": ["classifier-free", "embedded", "distilled"]},
    "uses_guidance": {"type": "boolean"},
    "uses_negative_prompt": {"type": "boolean"},
    "few_steps": {"type": "boolean"},
    "methods": array_schema(TEXT),
    "defaults": map_schema({"type": "number"}),
    "presets": map_schema(map_schema({"type": "number"})),
    "about": TEXT,
    "examples": array_schema(
        object_schema(image=TEXT, type=TEXT, name=TEXT, source_prompt=TEXT, prompt=TEXT)
    ),
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
        object_schema(
            ("edits",), b64_json=TEXT, mask=TEXT, blend_mask=TEXT, edits=PARTS, **EDIT_FIELDS
        ),
        minItems=1,
        maxItems=10,
    ),
)
MASK = object_schema(
    ("edits",),
    edits=PARTS,
    mask_id=TEXT,
    previous_edit_id=TEXT_OR_NULL,
    mask=TEXT,
    blend_mask=TEXT,
    heatmap=TEXT,
    cells=WIDTH_HEIGHT,
    canvas=WIDTH_HEIGHT,
    **SHAPE_FIELDS,
    **RESULT_FIELDS,
)
READ_MASK = object_schema(
    mask=TEXT,
    mask_share=FRACTION,
    mask_read_as={"enum": ["alpha", "white", "black"]},
    warnings=array_schema(TEXT),
    warning_codes=array_schema({"enum": [*CODES]}),
)
REFINED = object_schema(
    mask_id=TEXT,
    refined_from=TEXT,
    mask=TEXT,
    blend_mask=TEXT,
    mask_share=FRACTION,
    **SHAPE_FIELDS,
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
    409: "The job, or the job of an id in the form, has not finished; try again.",
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
    """The error responses of a route: the given ones and those of every route."""
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
