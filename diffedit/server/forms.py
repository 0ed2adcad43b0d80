"""A multipart form becomes an `EditForm`: every field known, none twice, every value of its kind.

Ranges are `diffedit.request`'s business, pictures `diffedit.server.image_codec`'.
"""

from __future__ import annotations

import asyncio
import difflib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from diffedit.request import PARAMETERS, RANGES, EditRequest
from diffedit.server.errors import ApiError
from diffedit.server.settings import Settings

MaskFormat = Literal["auto", "alpha", "white", "black"]
FORMATS = ("png", "jpeg", "webp")
FILES = ("image", "image[]", "mask")
MAX_FIELDS = 64
NUMBER = "[0-9.eE+-]{1,40}"
SIZE = "auto|[0-9]+x[0-9]+"


@dataclass(frozen=True)
class EditForm:
    """What one form asks for.

    Attributes:
        image, mask: file contents.
        parameters: of `EditRequest`, still to be checked by it.
        mask_format: how the mask is to be read.
        n: edits of consecutive seeds.
        size: "auto" or WIDTHxHEIGHT, which must then be the picture's.
        output_format, output_compression: "png", "jpeg" or "webp"; 0 to 100, quality of the last
            two.
        partial_images: previews wanted, 0 to 3.
        stream: answer with server-sent events.
        model: the served model's name, or None.
    """

    image: bytes
    mask: bytes | None
    parameters: Mapping[str, Any]
    mask_format: MaskFormat = "auto"
    n: int = 1
    size: str = "auto"
    output_format: str = "png"
    output_compression: int = 95
    partial_images: int = 0
    stream: bool = False
    model: str | None = None

    def requests(self, image: Any, mask: Any) -> list[EditRequest]:
        """The n edits, checked; raises InvalidRequest."""
        first = EditRequest.from_parameters(image, self.parameters, mask_image=mask)
        more = [
            EditRequest.from_parameters(image, {**self.parameters, "seed": first.seed + k}, mask)
            for k in range(1, self.n)
        ]
        return [first, *more]


async def read(
    request: Request, settings: Settings, uploads: asyncio.Semaphore, *, mask_only: bool = False
) -> EditForm:
    """The order in a request's body; raises ApiError. `uploads` bounds how many are read at once,
    since every one lies in memory."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise ApiError(
            415,
            "unsupported_media_type",
            f"The body is of type {kind[:80] or 'none at all'}, but must be multipart/form-data "
            "with the picture in a field named image.",
        )
    if "content-encoding" in request.headers:
        raise ApiError(415, "unsupported_encoding", "Send the body as it is, not compressed.")
    try:
        async with asyncio.timeout(settings.upload_seconds), uploads:
            form = await request.form(**bounds(settings))
    except TimeoutError:
        raise too_slow(settings) from None
    except HTTPException as error:
        long = "exceeded maximum size" in str(error.detail)
        status, code = (413, "too_large") if long else (400, "malformed_form")
        message = f"The form cannot be read: {str(error.detail).rstrip('.')}."
        raise ApiError(status, code, message) from None
    try:
        return await _order(form.multi_items(), settings, mask_only)
    finally:
        await form.close()


async def skip(request: Request, settings: Settings) -> None:
    """Let a body pass unread."""
    try:
        async with asyncio.timeout(settings.upload_seconds):
            async for _ in request.stream():
                pass
    except TimeoutError:
        raise too_slow(settings) from None


def bounds(settings: Settings) -> dict[str, int]:
    """What a form's parser is bounded by."""
    part = max(settings.max_prompt_bytes * 4, 65536)
    return {"max_files": len(FILES) + 13, "max_fields": MAX_FIELDS, "max_part_size": part}


def too_slow(settings: Settings) -> ApiError:
    """A body that did not arrive in its time."""
    message = f"The form did not arrive within {settings.upload_seconds:g} s; send it faster."
    return ApiError(408, "upload_timeout", message, headers={"Connection": "close"})


async def _order(
    items: list[tuple[str, UploadFile | str]], settings: Settings, mask_only: bool
) -> EditForm:
    known = MASK_FIELDS if mask_only else FIELDS
    texts: dict[str, str] = {}
    files: dict[str, bytes] = {}
    for name, value in items:
        if name in FILES:
            place = "mask" if name == "mask" else "image"
            if place in files:
                raise _twice(place)
            if not isinstance(value, UploadFile):
                raise ApiError(400, "not_a_file", f"{place} is text, but must be a file.", place)
            files[place] = await value.read()
        elif name not in known:
            raise _unknown(name, known)
        elif not isinstance(value, str):
            raise ApiError(400, "not_text", f"{name} is a file, but must be text.", name)
        elif name in texts:
            raise _twice(name)
        else:
            texts[name] = value
    if "image" not in files:
        raise ApiError(400, "missing_field", "There is no image; send the picture as one.", "image")
    if mask_only and "mask" in files:
        raise ApiError(400, "unknown_field", "A mask is what this finds; leave it out.", "mask")
    for name in PROMPTS:
        if len(texts.get(name, "").encode("utf-8", "surrogatepass")) > settings.max_prompt_bytes:
            raise ApiError(
                400,
                "too_long",
                f"{name} has over {settings.max_prompt_bytes} bytes, but a model reads about 75 "
                "words; shorten it.",
                name,
            )
    values = {name: known[name](name, text) for name, text in texts.items()}
    parameters = {name: values.pop(name) for name in PARAMETERS if name in values}
    for ignored in ("user", "response_format"):
        values.pop(ignored, None)
    if "prompt" not in parameters:
        raise ApiError(
            400, "missing_field", "There is no prompt; say what should be there.", "prompt"
        )
    return EditForm(files["image"], files.get("mask"), parameters, **values)


def _twice(name: str) -> ApiError:
    return ApiError(400, "duplicate_field", f"{name} is given twice; send it once.", name)


def _unknown(name: str, known: Mapping[str, Any]) -> ApiError:
    shown = name[:60].encode("ascii", "backslashreplace").decode()
    close = difflib.get_close_matches(name[:60], [*known, *FILES], n=1)
    hint = f"did you mean {close[0]}?" if close else f"take some of {', '.join(known)}."
    return ApiError(400, "unknown_field", f"There is no field {shown!r}; {hint}", shown)


def _number(name: str, text: str) -> int | float:
    whole = RANGES[name].whole
    if whole and re.fullmatch(r"-?[0-9]{1,30}", text):
        return int(text)
    if not whole:
        try:
            number = float(text) if re.fullmatch(NUMBER, text) else math.nan
        except ValueError:
            number = math.nan
        if math.isfinite(number):
            return number
    raise ApiError(
        400, "invalid_value", f"{name} is {text[:40]!r}, but must be {RANGES[name]}.", name
    )


def _flag(name: str, text: str) -> bool:
    if text.lower() in ("true", "1"):
        return True
    if text.lower() in ("false", "0"):
        return False
    raise ApiError(
        400, "invalid_value", f"{name} is {text[:40]!r}, but must be true or false.", name
    )


def _text(name: str, text: str) -> str:
    return text


def _size(name: str, text: str) -> str:
    if re.fullmatch(SIZE, text):
        return text
    message = f"{name} is {text[:40]!r}, but must be auto or WIDTHxHEIGHT of the picture itself."
    raise ApiError(400, "invalid_value", message, name)


def _between(low: int, high: int) -> Callable[[str, str], int]:
    def read(name: str, text: str) -> int:
        if re.fullmatch(r"[0-9]{1,6}", text) and low <= int(text) <= high:
            return int(text)
        message = f"{name} is {text[:40]!r}, but must be a whole number from {low} to {high}."
        raise ApiError(400, "invalid_value", message, name)

    return read


def _one_of(*choices: str, why: str = "") -> Callable[[str, str], str]:
    def read(name: str, text: str) -> str:
        if text in choices:
            return text
        message = f"{name} is {text[:40]!r}, but must be {' or '.join(choices)}{why}."
        raise ApiError(400, "invalid_value", message, name)

    return read


PROMPTS = ("prompt", "source_prompt", "negative_prompt")
FIELDS: dict[str, Callable[[str, str], Any]] = {
    **dict.fromkeys((*PROMPTS, "method"), _text),
    **dict.fromkeys(RANGES, _number),
    "composite": _flag,
    "mask_format": _one_of("auto", "alpha", "white", "black"),
    "n": _between(1, 10),
    "size": _size,
    "response_format": _one_of("b64_json", why=": pictures are not kept at addresses"),
    "output_format": _one_of(*FORMATS),
    "output_compression": _between(0, 100),
    "partial_images": _between(0, 3),
    "stream": _flag,
    "model": _text,
    "user": _text,
}
"""Every text field of an edit, and how it is read."""
MASK_FIELDS = {
    name: FIELDS[name]
    for name in (
        "prompt",
        "source_prompt",
        "num_inference_steps",
        "num_maps_per_mask",
        "mask_encode_strength",
        "mask_thresholding_ratio",
        "mask_dilation",
        "seed",
        "model",
        "user",
    )
}
"""Those that a mask alone depends on."""
