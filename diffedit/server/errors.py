"""Errors of the API, in OpenAI's format: `{"error": {message, type, param, code}}`.

Clients retry 408, 409, 429 and 5xx on their own. Permanent errors therefore use other 4xx statuses;
temporary errors send `Retry-After`.
"""

from __future__ import annotations

import math
from typing import Any

from fastapi.responses import JSONResponse

from diffedit.request import PARAMETERS, InvalidRequest
from engine.errors import (
    Cancelled,
    CheckpointError,
    EngineMismatch,
    NonFiniteError,
    ResourceError,
    out_of_memory,
)

ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}
OPTION_WORDS = {"The mask ": "mask", "The picture ": "image"}
"""Prefix of a message without a field name -> the field."""
FIELD_OF_OPTION = {"mask_image": "mask"}
"""Options of `EditRequest` whose form field has another name."""


class ApiError(Exception):
    """An error response.

    Attributes:
        status: HTTP status.
        code: machine-readable error code.
        message: one sentence: what is wrong, why, and what to do.
        param: the name of the invalid field, or None.
        retry_after: seconds until a retry is useful, or None; at least 1 s for 429 and 503.
        headers: additional response headers.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        param: str | None = None,
        *,
        retry_after: float | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        if retry_after is None and status in (429, 503):
            retry_after = 1.0
        self.status, self.code, self.message, self.param = status, code, message, param
        self.retry_after = retry_after
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(max(1, math.ceil(retry_after)))
        elif status == 422:
            self.headers["x-should-retry"] = "false"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the arguments and then the attributes, for Ray and other processes."""
        return ApiError, (self.status, self.code, self.message, self.param), vars(self)

    @property
    def body(self) -> dict[str, Any]:
        """The JSON body."""
        error_type = ERROR_TYPES.get(self.status, "invalid_request_error")
        return {
            "error": {
                "message": self.message,
                "type": error_type,
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self) -> JSONResponse:
        return JSONResponse(self.body, self.status, self.headers)


def to_api_error(error: BaseException) -> ApiError:
    """Convert an exception to an error response.

    Messages of unexpected exceptions stay in the log; the client gets a generic sentence.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, InvalidRequest):
        return _invalid_request(error)
    if isinstance(error, Cancelled):
        return cancelled()
    if isinstance(error, NonFiniteError):
        return ApiError(422, "numerical_error", str(error))
    if out_of_memory(error):
        return ApiError(
            503,
            "out_of_memory",
            "There was not enough memory to run this edit with the others; try again in a moment.",
            retry_after=5,
        )
    if isinstance(error, CheckpointError | EngineMismatch | ResourceError):  # has local paths
        message = "The model cannot be loaded; the server log has the reason."
        return ApiError(503, "model_unavailable", message, retry_after=60)
    return ApiError(
        500,
        "internal_error",
        "Unexpected error in the server; find its stack trace in the server log by the request id.",
    )


def _invalid_request(error: InvalidRequest) -> ApiError:
    """An error of `EditRequest` or of a picture, with the field of the form."""
    message = str(error)
    for option, field in FIELD_OF_OPTION.items():
        message = message.replace(option, field)
    fields = {f"{name} ": name for name in (*PARAMETERS, *FIELD_OF_OPTION.values())}
    beginnings = {**fields, **OPTION_WORDS}
    named = next((name for text, name in beginnings.items() if message.startswith(text)), None)
    param = FIELD_OF_OPTION.get(error.field, error.field) if error.field else named
    return ApiError(400, error.code, message, param)


def engine_lost(reason: str) -> ApiError:
    """The engine failed permanently; the process exits and a supervisor restarts it."""
    return ApiError(503, "engine_lost", reason, retry_after=10)


def draining() -> ApiError:
    """The server received SIGTERM."""
    message = "The server is shutting down; try again in a moment."
    return ApiError(503, "draining", message, retry_after=5)


def deadline_exceeded(backlog_seconds: float) -> ApiError:
    """A job was stopped at the end of its time limit."""
    return ApiError(
        503,
        "deadline_exceeded",
        "The edit did not finish within its time limit and was stopped; try again later or "
        "allow more time.",
        retry_after=backlog_seconds or 1,
    )


def cancelled() -> ApiError:
    """The client cancelled its edit."""
    return ApiError(410, "cancelled", "The edit was cancelled; send it again if you need it.")


def not_ready(retry_after: float) -> ApiError:
    """The model has not been loaded yet."""
    message = "The model is still loading; try again in a moment."
    return ApiError(503, "not_ready", message, retry_after=retry_after)


def body_too_large(limit: int) -> ApiError:
    """A request body over the limit; the rest of it is not read."""
    message = f"The request body has more than {limit:,} bytes; send a smaller image."
    return ApiError(413, "too_large", message, headers={"Connection": "close"})


def out_of_device_memory(error: BaseException) -> bool:
    """Whether the memory of a GPU ran out, rather than the host's."""
    return type(error).__name__ == "OutOfMemoryError" or "CUDA" in str(error)


def is_device_failure(error: BaseException) -> bool:
    """Whether the CUDA device is unusable for the rest of the process after this error."""
    if out_of_memory(error):
        return False
    return type(error).__name__ == "AcceleratorError" or (
        isinstance(error, RuntimeError) and "CUDA error" in str(error)
    )
