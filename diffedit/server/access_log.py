"""Around everything: a request's id, its line of the log, its figures, the headers of every answer,
and an answer whatever happens.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diffedit.server.errors import ApiError, api_error

log = logging.getLogger(__name__)

METHODS = ("GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS")
"""Those that figures are kept of; a stranger's own words are not."""
PROBES = ("/livez", "/readyz", "/metrics")
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Of every answer."""
GONE = 499
"""In the log and the figures: the client left before there was an answer."""


class AccessLog:
    """Pure ASGI. `seen` is called with method, route, status and seconds of every answer."""

    def __init__(self, app: ASGIApp, seen: Callable[[str, str, int, float], None]) -> None:
        self.app, self._seen = app, seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        if "request_id" not in state:  # a front may have given one
            state["request_id"] = _request_id(Headers(scope=scope).get("x-request-id", ""))
        request_id: str = state["request_id"]
        began, status = time.monotonic(), 0

        async def finish(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self.app(scope, receive, finish)
        except ClientDisconnect:
            log.info("request %s: the client left before all of it had come", request_id)
        except Exception as error:
            if not isinstance(error, ApiError):  # a bug: told once, in the log
                log.error("request %s failed", request_id, exc_info=error)
            if status:
                raise
            await api_error(error).response()(scope, receive, finish)
        finally:
            seconds = time.monotonic() - began
            method = scope["method"] if scope["method"] in METHODS else "other"
            route = getattr(scope.get("route"), "path", "other")
            status = status or GONE
            self._seen(method, route, status, seconds)
            level = logging.DEBUG if route in PROBES else logging.INFO
            log.log(
                level, "%s %s %d (%s)", method, route, status, request_id,
                extra={"request_id": request_id, "status": status, "seconds": round(seconds, 4)},
            )  # fmt: skip


def _request_id(given: str) -> str:
    """The client's own id where it is a plain word, else a new one."""
    return given if re.fullmatch(r"[\w.-]{1,64}", given, re.ASCII) else secrets.token_hex(8)
