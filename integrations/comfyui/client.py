"""A small client of the server, from the standard library alone.

It does not import ComfyUI. Every error is a `ServerError`.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import secrets
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

KEY_VARIABLE = "DIFFEDIT_API_KEY"
"""Environment variable of the API key. Not an input, because images contain their workflow."""
POLL_SECONDS = 0.25
BUSY_SECONDS = 120.0
"""Time limit of repeated requests to a server that is full or not ready."""
TIMEOUT_SECONDS = 660.0
"""Of one response; above the server's own time limit of an edit."""


class ServerError(RuntimeError):
    """The server is not reachable, or has refused a request."""


class Busy(ServerError):
    """The server is full or not ready, and states when to try again.

    Attributes:
        seconds: time to wait.
    """

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


@dataclass(frozen=True)
class Client:
    """The API of one server.

    Attributes:
        server: its address, such as "http://127.0.0.1:8000".
        on_progress: called with the progress of an edit, 0 to 1. An exception cancels the edit.
    """

    server: str
    on_progress: Callable[[float], None] = lambda progress: None

    def edit(self, fields: Mapping[str, str], files: Mapping[str, bytes]) -> tuple[bytes, bytes]:
        """Edit a photograph; return the result and its mask as PNG files. Raises ServerError."""
        job = self._post("/v1/jobs", fields, files)
        path = f"/v1/jobs/{urllib.parse.quote(job['id'])}"
        try:
            while job["state"] not in ("succeeded", "failed", "cancelled"):
                self.on_progress(float(job["progress"]))
                time.sleep(POLL_SECONDS)
                job = json.loads(self._send("GET", path))
        except BaseException:  # also ComfyUI's "Cancel"
            self._cancel(path)
            raise
        if job["state"] != "succeeded":
            raise ServerError(_message(job) or f"The edit was {job['state']} by the server.")
        self.on_progress(1.0)
        return self._send("GET", f"{path}/image"), self._send("GET", f"{path}/mask")

    def find_mask(
        self, fields: Mapping[str, str], files: Mapping[str, bytes]
    ) -> tuple[bytes, bytes]:
        """Find a mask; return it, and how much of an edit each pixel would take, as PNG files."""
        body = self._post("/v1/masks", fields, files)
        mask, blend_mask = (base64.b64decode(body[name]) for name in ("mask", "blend_mask"))
        return mask, blend_mask

    def _cancel(self, path: str) -> None:
        with contextlib.suppress(ServerError):  # it then ends by its time limit
            self._send("DELETE", path)

    def _post(self, path: str, fields: Mapping[str, str], files: Mapping[str, bytes]) -> Any:
        """Send a form; ask again while the server is full or not ready."""
        body, content_type = _multipart(fields, files)
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                return json.loads(self._send("POST", path, body, content_type))
            except Busy as busy:
                if time.monotonic() + busy.seconds > deadline:
                    raise
                self._wait(busy.seconds)

    def _wait(self, seconds: float) -> None:
        """Wait, but let `on_progress` cancel."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.on_progress(0.0)
            time.sleep(min(left, POLL_SECONDS))

    def _send(
        self, method: str, path: str, body: bytes | None = None, content_type: str = ""
    ) -> bytes:
        """Send a request; return the body of the response. Raises ServerError."""
        headers = {"Content-Type": content_type} if content_type else {}
        if key := os.environ.get(KEY_VARIABLE):
            headers["Authorization"] = f"Bearer {key}"
        address = self.server.strip().rstrip("/")
        if urllib.parse.urlsplit(address).scheme not in ("http", "https"):
            raise ServerError(
                f"server is {address!r}, but must be an address such as http://127.0.0.1:8000."
            )
        request = urllib.request.Request(address + path, body, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
                return bytes(response.read())
        except urllib.error.HTTPError as error:
            with error:
                raise _refusal(error) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise ServerError(
                f"The DiffEdit server at {address} is not reachable ({reason}); start it with "
                "`diffedit-trt serve`, or correct the input `server`."
            ) from None


def _refusal(error: urllib.error.HTTPError) -> ServerError:
    """The error of a request that the server refused."""
    try:
        message = _message(json.loads(error.read()))
    except ValueError:
        message = ""
    message = message or f"The address answers {error.code}; check that it is a DiffEdit server."
    if error.code == 401:
        message += f" Set the environment variable {KEY_VARIABLE} before you start ComfyUI."
    try:
        seconds = float(error.headers.get("Retry-After", ""))
    except ValueError:
        return ServerError(message)
    return Busy(message, seconds) if error.code in (429, 503) else ServerError(message)


def _message(body: Any) -> str:
    """The sentence of an error in the API's format, or ""."""
    error = body.get("error") if isinstance(body, dict) else None
    return str(error.get("message", "")) if isinstance(error, dict) else ""


def _multipart(fields: Mapping[str, str], files: Mapping[str, bytes]) -> tuple[bytes, str]:
    """Encode a form; return the body and its content type."""
    boundary = secrets.token_hex(16)
    head = f"--{boundary}\r\nContent-Disposition: form-data; name="
    parts = [f'{head}"{name}"\r\n\r\n{text}\r\n'.encode() for name, text in fields.items()]
    for name, data in files.items():
        start = f'{head}"{name}"; filename="{name}.png"\r\nContent-Type: image/png\r\n\r\n'
        parts.append(start.encode() + data + b"\r\n")
    return b"".join(
        [*parts, f"--{boundary}--\r\n".encode()]
    ), f"multipart/form-data; boundary={boundary}"
