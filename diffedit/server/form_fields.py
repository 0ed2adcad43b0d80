"""The text fields of a form and how to parse them. `diffedit.request` checks ranges of numbers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

from diffedit.notices import Notice
from diffedit.request import RANGES
from diffedit.server.errors import ApiError

Parser = Callable[[str, str], Any]
"""`parser(field, text)` returns the value, or raises ApiError."""

OUTPUT_FORMATS = ("png", "jpeg", "webp")
NUMBER_PATTERN = "[0-9.eE+-]{1,40}"
ID_PATTERN = r"[A-Za-z0-9_-]{1,128}(\.[0-9])?(~[0-9]{1,2})?"
"""A result: the id of its job, and its number if the job has several. The mask of one of several
edits in one pass: the id of the result, "~" and the number of the edit."""
INTERVAL_PATTERN = r"(0|0?\.[0-9]{1,9}),(1|1\.0|0?\.[0-9]{1,9})"
SIZE_PATTERN = "auto|[1-9][0-9]{0,3}x[1-9][0-9]{0,3}"


EDITS_EXAMPLE = '[{"source_prompt": "a red cup", "prompt": "a green cup"}]'


def invalid(name: str, text: str, expected: str) -> ApiError:
    """The error of a field with another value than expected."""
    message = f"{name} is {text[:40]!r}, but must be {expected}."
    return ApiError(400, "invalid_value", message, name)


def _parse_number(name: str, text: str) -> int | float:
    if RANGES[name].whole:
        if re.fullmatch(r"-?[0-9]{1,30}", text):
            return int(text)
    elif (number := finite_number(text)) is not None:
        return number
    raise invalid(name, text, str(RANGES[name]))


def finite_number(text: str) -> float | None:
    """Parse a decimal number strictly: no underscores, "nan" or "inf". None if it is not one."""
    try:
        number = float(text) if re.fullmatch(NUMBER_PATTERN, text) else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def parse_bool(name: str, text: str) -> bool:
    """Parse true, false, 1 or 0. Raises ApiError."""
    if text.lower() in ("true", "1"):
        return True
    if text.lower() in ("false", "0"):
        return False
    raise invalid(name, text, "true or false")


def _parse_focus(name: str, text: str) -> bool | str:
    return "auto" if text == "auto" else parse_bool(name, text)


def _parse_text(name: str, text: str) -> str:
    return text


def _parse_size(name: str, text: str) -> str:
    if re.fullmatch(SIZE_PATTERN, text):
        return text
    raise invalid(name, text, "auto or WIDTHxHEIGHT, each from 1 to 9999")


def _parse_id(name: str, text: str) -> str:
    if re.fullmatch(ID_PATTERN, text):
        return text
    raise invalid(name, text, "an id from a response of this server")


def _parse_interval(name: str, text: str) -> tuple[float, float]:
    if re.fullmatch(INTERVAL_PATTERN, text):
        low, high = (finite_number(part) for part in text.split(","))
        if low is not None and high is not None:
            return low, high
    raise invalid(name, text, "two numbers from 0 to 1 such as 0.6,1, the lower one first")


def _parse_edits(name: str, text: str) -> list[dict[str, Any]]:
    """Parse the JSON list of several edits; `diffedit.several_edits` checks each."""
    try:
        edits = json.loads(text)
    except (ValueError, RecursionError):
        edits = None
    if isinstance(edits, list) and edits and all(isinstance(edit, dict) for edit in edits):
        return edits
    raise invalid(name, text, f"a JSON list with an object for each edit, such as {EDITS_EXAMPLE}")


def _integer(low: int, high: int) -> Parser:
    def parse(name: str, text: str) -> int:
        if re.fullmatch(r"[0-9]{1,6}", text) and low <= int(text) <= high:
            return int(text)
        raise invalid(name, text, f"a whole number from {low} to {high}")

    return parse


def _choice(*choices: str, note: str = "") -> Parser:
    def parse(name: str, text: str) -> str:
        if text in choices:
            return text
        raise invalid(name, text, f"{' or '.join(choices)}{note}")

    return parse


PREVIEW_SIDE = "preview_side"
"""The field that limits the size of the masks in a response."""
PREVIEW_SIDES = 64, 8192
"""Its lowest and highest value."""
parse_preview_side = _integer(*PREVIEW_SIDES)
IGNORED_FIELDS = {
    "quality": ("auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"),
    "complexity": ("low", "medium", "high"),
    "input_fidelity": ("low", "high"),
    "moderation": ("auto", "low"),
}
"""Fields of OpenAI's API that do not change an edit, with their values. The response says so."""
PROMPTS = ("prompt", "source_prompt", "negative_prompt")
TEXT_FIELDS: dict[str, Parser] = {
    **dict.fromkeys((*PROMPTS, "method", "preset", "mask_cleaning"), _parse_text),
    **dict.fromkeys(RANGES, _parse_number),
    "edits": _parse_edits,
    "guidance_interval": _parse_interval,
    "composite": parse_bool,
    "focus": _parse_focus,
    "mask_format": _choice("auto", "alpha", "white", "black"),
    **{name: _choice(*choices) for name, choices in IGNORED_FIELDS.items()},
    "background": _choice("auto", "opaque", note=", since an edit makes nothing transparent"),
    "n": _integer(1, 10),
    "size": _parse_size,
    "response_format": _choice("b64_json", note=", since images are not stored at URLs"),
    "output_format": _choice(*OUTPUT_FORMATS),
    "output_compression": _integer(0, 100),
    "partial_images": _integer(0, 3),
    "stream": parse_bool,
    "model": _parse_text,
    **dict.fromkeys(("user", "safety_identifier"), _parse_text),
    **dict.fromkeys(("mask_id", "previous_edit_id"), _parse_id),
}
"""The text fields of an edit, with their parsers."""
MASK_TEXT_FIELDS = {
    PREVIEW_SIDE: parse_preview_side,
    **{
        name: TEXT_FIELDS[name]
        for name in (
            *("prompt", "source_prompt", "edits", "num_inference_steps", "num_maps_per_mask"),
            *("mask_encode_strength", "mask_thresholding_ratio", "mask_dilation"),
            *("mask_threshold", "mask_cleaning", "mask_feather", "mask_tolerance"),
            *("preset", "method", "seed", "model", "user", "previous_edit_id"),
        )
    },
}
"""The text fields that affect the mask alone."""


GIF_ONLY = "it belongs to animated GIFs, and this server writes PNG, JPEG and WebP"
UNSUPPORTED_FIELDS = {
    "frame_count": GIF_ONLY,
    "frame_duration_ms": GIF_ONLY,
    "markup": "this model reads no drawings on the image; use mask to say where to edit",
    "svg": "it belongs to SVG files, and this server writes PNG, JPEG and WebP",
}
"""Fields of OpenAI's API that would need another kind of model or file."""


def unsupported_field(name: str) -> ApiError | None:
    """The error of a field of `UNSUPPORTED_FIELDS`, such as "svg[model]"; None for others."""
    if name.startswith("edits["):  # as clients flatten a list, which mixes up texts left out
        message = f"edits is spread over several fields; send one text: {EDITS_EXAMPLE}."
        return ApiError(400, "invalid_value", message, "edits")
    reason = UNSUPPORTED_FIELDS.get(name.partition("[")[0])
    if reason is None:
        return None
    message = f"{name[:60]} is not supported: {reason}; leave it out."
    return ApiError(400, "unsupported_field", message, name[:60])


def ignored_note(name: str, value: str) -> Notice | None:
    """A warning about an ignored field, or None if its value has no effect anyway."""
    if value == "auto":
        return None
    reasons = {
        "moderation": "moderation was ignored: this server filters neither prompts nor images.",
        "input_fidelity": (
            f"input_fidelity={value} was ignored: an edit always keeps the image outside the mask; "
            "set strength for the inside."
        ),
    }
    of_quality = f"{name}={value} was ignored: set num_inference_steps to trade time for quality."
    return Notice("field_ignored", reasons.get(name, of_quality))
