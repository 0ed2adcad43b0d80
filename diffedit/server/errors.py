"""What goes wrong, in one envelope: OpenAI's `{"error": {message, type, param, code}}`.

Clients repeat 408, 409, 429 and 5xx by themselves, so what will not get better with time is another
4xx, and what will says when (`Retry-After`).
"""

from __future__ import annotations

import math
from typing import Any

from fastapi.responses import JSONResponse

from diffedit.request import PARAMETERS, InvalidRequest
from engine.errors import Cancelled, CheckpointError, EngineMismatch, NonFiniteError, out_of_memory

TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error"}
TYPES |= {429: "rate_limit_error", 500: "server_error", 503: "server_error"}


class ApiError(Exception):
    """An answer that is an error.

    Attributes:
        status: of HTTP.
        code: one word for programs.
        message: one sentence for people: what, why, what to do.
        param: the field that is wrong, where one is.
        retry_after: seconds after which it is worth trying again.
        headers: to add.
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

    @property
    def body(self) -> dict[str, Any]:
        kind = TYPES.get(self.status, "invalid_request_error")
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body, self.status, self.headers)


def api_error(error: BaseException) -> ApiError:
    """What an exception from below is to a client; what nobody foresaw says nothing of itself."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, InvalidRequest):
        text = str(error)
        if text.startswith("mask_image "):
            return ApiError(400, "invalid_value", text.replace("mask_image", "mask"), "mask")
        named = (name for name in PARAMETERS if text.startswith(f"{name} "))
        return ApiError(400, "invalid_value", text, next(named, None))
    if isinstance(error, Cancelled):
        return ApiError(410, "cancelled", "The edit was cancelled; send it again if it is wanted.")
    if isinstance(error, NonFiniteError):
        return ApiError(422, "numerical_error", str(error))
    if out_of_memory(error):
        return ApiError(
            503,
            "out_of_memory",
            "The memory did not suffice for this edit beside the others; try again in a moment.",
            retry_after=5,
        )
    if isinstance(error, CheckpointError | EngineMismatch):  # whose words name folders
        why = "The model cannot be loaded now; the server's log says why."
        return ApiError(503, "model_unavailable", why, retry_after=60)
    return ApiError(
        500,
        "internal_error",
        "Something went wrong that should not; the server's log has it under the request id.",
    )


def too_large(limit: int) -> ApiError:
    """A body over the limit; its rest is not read."""
    message = f"The body has more than {limit:,} bytes; send a smaller picture."
    return ApiError(413, "too_large", message, headers={"Connection": "close"})


def poisons(error: BaseException) -> bool:
    """Whether the device is lost with this error for as long as the process lives."""
    if out_of_memory(error):
        return False
    return type(error).__name__ == "AcceleratorError" or (
        isinstance(error, RuntimeError) and "CUDA error" in str(error)
    )
