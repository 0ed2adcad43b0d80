"""The OpenAPI schemas of the text fields of forms, from the tables that parse and validate them."""

from __future__ import annotations

from dataclasses import MISSING, fields

from diffedit.presets import DECIDED, DEFAULT_PRESET, PRESET_NAMES, default_text, preset_help
from diffedit.request import CLEANINGS, METHODS, RANGES, EditRequest
from diffedit.server.form_fields import (
    EDITS_EXAMPLE,
    ID_PATTERN,
    IGNORED_FIELDS,
    INTERVAL_PATTERN,
    OUTPUT_FORMATS,
    PREVIEW_SIDE,
    PREVIEW_SIDES,
    SIZE_PATTERN,
)
from diffedit.server.response_schemas import Schema
from diffedit.server.text_pattern import any_text, blank_text, visible_text
from diffedit.several_edits import MAX_EDITS, MAX_TEXT

DESCRIPTIONS = {
    PREVIEW_SIDE: "Longest side, in pixels, of the masks in the response, for display. The "
    "mask itself keeps the image's size. Default: the image's.",
    "prompt": "What the edited image should show. Required unless edits is given.",
    "source_prompt": "What the image shows now; helps to find the mask.",
    "negative_prompt": "What the edit should avoid.",
    "edits": "Several edits in one pass instead of prompt and source_prompt, as JSON: a list with "
    f"an object for each edit, such as {EDITS_EXAMPLE}. Each finds its own mask; where masks meet, "
    "the earlier edit has the area. Not with mask, mask_id or focus.",
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
ANY_TEXT, BLANK_TEXT, VISIBLE_TEXT = any_text(), blank_text(), visible_text()
PATTERN_MEANINGS = {
    ANY_TEXT: "without control characters",
    VISIBLE_TEXT: "not blank, without control characters",
    BLANK_TEXT: "blank",
}
"""Patterns of texts in words, for people."""
DEFAULTS = {f.name: f.default for f in fields(EditRequest) if f.default is not MISSING}
FIELD_SCHEMAS: dict[str, Schema] = {
    **{name: {"type": "string", "enum": list(values)} for name, values in IGNORED_FIELDS.items()},
    "background": {"type": "string", "enum": ["auto", "opaque"]},
    PREVIEW_SIDE: {
        "type": "integer",
        "minimum": PREVIEW_SIDES[0],
        "maximum": PREVIEW_SIDES[1],
    },
    "prompt": {"type": "string", "pattern": ANY_TEXT, "maxLength": MAX_TEXT},
    "source_prompt": {"type": "string", "pattern": ANY_TEXT, "maxLength": MAX_TEXT},
    "negative_prompt": {"type": "string", "pattern": ANY_TEXT, "maxLength": MAX_TEXT},
    "edits": {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": {
            "type": "array",
            "minItems": 1,
            "maxItems": MAX_EDITS,
            "items": {
                "type": "object",
                "required": ["prompt"],
                "properties": {
                    "prompt": {"type": "string", "pattern": VISIBLE_TEXT, "maxLength": MAX_TEXT},
                    "source_prompt": {
                        "type": "string",
                        "pattern": ANY_TEXT,
                        "maxLength": MAX_TEXT,
                    },
                },
                "additionalProperties": False,
            },
        },
    },
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
