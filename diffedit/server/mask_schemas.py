"""The OpenAPI description of POST /v1/masks/{id} and POST /v1/masks/read."""

from __future__ import annotations

from diffedit.request import CLEANINGS
from diffedit.server.field_schemas import field_schema
from diffedit.server.form_body import MULTIPART, URLENCODED
from diffedit.server.form_fields import PREVIEW_SIDE
from diffedit.server.response_schemas import READ_MASK, REFINED, Schema, error_responses, success
from diffedit.soft_map import REFINE_RANGES


def refine_form() -> Schema:
    """The fields of POST /v1/masks/{id}."""
    properties: Schema = {
        name: {"type": "integer" if r.whole else "number", "minimum": 0, "maximum": r.high}
        for name, r in REFINE_RANGES.items()
    }
    properties["cleaning"] = {"type": "string", "enum": list(CLEANINGS)}
    properties["invert"] = {"type": "boolean"}
    for name, text in REFINE_DESCRIPTIONS.items():
        properties[name]["description"] = text
    properties[PREVIEW_SIDE] = field_schema(PREVIEW_SIDE)
    form = {"type": "object", "properties": properties, "additionalProperties": False}
    types = (MULTIPART, URLENCODED)
    return {"requestBody": {"content": {name: {"schema": form} for name in types}}}


def read_form() -> Schema:
    """The fields of POST /v1/masks/read."""
    side: Schema = {"type": "integer", "minimum": 1}
    properties: Schema = {
        "mask": {"type": "string", "contentMediaType": "application/octet-stream"},
        "width": {**side, "description": "Width of the image, upright, in pixels."},
        "height": {**side, "description": "Height of the image, upright, in pixels."},
        "mask_format": field_schema("mask_format"),
    }
    properties["mask"]["description"] = "PNG, JPEG or WebP file with the image's aspect ratio."
    form = {
        "type": "object",
        "properties": properties,
        "required": ["mask", "width", "height"],
        "additionalProperties": False,
    }
    return {"requestBody": {"required": True, "content": {MULTIPART: {"schema": form}}}}


REFINE_DESCRIPTIONS = {
    "threshold": "Value of the heatmap above which a cell is edited.",
    "grow": "Enlarge the mask by this many latent cells.",
    "blur": "Blur the heatmap by this many cells; with cleaning.",
    "feather": "Width of the fade at the mask's outline, as a share of the longer side.",
    "cleaning": "none: as in the paper. clean: without holes and specks. edges: also with a border "
    "that follows the picture.",
    "invert": "Edit the rest of the image.",
}
REFINE_ROUTE = {
    "openapi_extra": refine_form(),
    "responses": success(schema=REFINED) | error_responses(400, 404, 408, 409, 413, 415),
}
READ_ROUTE = {
    "openapi_extra": read_form(),
    "responses": success(schema=READ_MASK) | error_responses(400, 408, 413, 415),
}
