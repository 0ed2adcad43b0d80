"""Read the body of a form request, within limits of time and memory."""

from __future__ import annotations

import asyncio

from fastapi import Request
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException

from diffedit.server.errors import ApiError
from diffedit.server.settings import Settings
from diffedit.server.uploads import Uploads

MAX_FILES = 16
MAX_FIELDS = 64
MULTIPART, URLENCODED = "multipart/form-data", "application/x-www-form-urlencoded"


async def receive_form(
    request: Request, settings: Settings, uploads: Uploads, types: tuple[str, ...] = (MULTIPART,)
) -> FormData:
    """Receive a form; the caller closes it. Raises ApiError.

    Args:
        request: its body has not been read.
        settings: limits.
        uploads: limits the memory of all bodies.
        types: accepted content types.
    """
    content_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if content_type not in types:
        with_image = " with the image in a field named image" if types == (MULTIPART,) else ""
        raise ApiError(
            415,
            "unsupported_media_type",
            f"The body's content type is {content_type[:80] or 'missing'}, but must be "
            f"{' or '.join(types)}{with_image}.",
        )
    if "content-encoding" in request.headers:
        message = "Content-Encoding is not supported; send the body uncompressed."
        raise ApiError(415, "unsupported_encoding", message)
    try:
        async with uploads.reading(request.receive) as receive:
            return await Request(request.scope, receive).form(**parser_limits(settings))
    except TimeoutError:
        raise upload_timeout(settings) from None
    except HTTPException as error:
        too_large = "exceeded maximum size" in str(error.detail)
        status, code = (413, "too_large") if too_large else (400, "malformed_form")
        detail = str(error.detail).rstrip(".")
        message = f"The form cannot be parsed: {detail}; send a valid {content_type}."
        raise ApiError(status, code, message) from None


async def discard_body(request: Request, settings: Settings) -> None:
    """Read and ignore the body, so that the client can read the response."""
    try:
        async with asyncio.timeout(settings.upload_seconds):
            async for _ in request.stream():
                pass
    except TimeoutError:
        raise upload_timeout(settings) from None


def parser_limits(settings: Settings) -> dict[str, int]:
    """Return the limits of Starlette's form parser."""
    max_part_size = max(settings.max_prompt_bytes * 4, 65536)
    return {"max_files": MAX_FILES, "max_fields": MAX_FIELDS, "max_part_size": max_part_size}


def upload_timeout(settings: Settings) -> ApiError:
    """The body did not arrive in time."""
    message = f"The form did not arrive within {settings.upload_seconds:g} s; send it faster."
    return ApiError(408, "upload_timeout", message, headers={"Connection": "close"})
