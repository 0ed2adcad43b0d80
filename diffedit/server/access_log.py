"""The outermost middleware: request id, access log, response headers, error responses, metrics.

It also answers HEAD like GET, without the body, and closes connections when the server shuts down.
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

from diffedit.server.errors import ApiError, to_api_error

log = logging.getLogger(__name__)

KNOWN_METHODS = ("GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS")
"""Other methods are logged as "other", so that clients cannot create metric labels."""
PROBE_PATHS = ("/livez", "/readyz", "/metrics")
RESPONSE_HEADERS = {
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
"""Default headers of every response."""
CLIENT_CLOSED_REQUEST = 499
"""Status in the log and the metrics if the client disconnected before the response."""

ObserveResponse = Callable[[str, str, int, float], None]
"""`observe_response(method, route, status, seconds)`."""


class AccessLog:
    """ASGI middleware.

    Args:
        app: the wrapped application.
        observe_response: called after each response.
        observe_error: called with each exception that no route handled.
        is_leaving: whether responses close their connections, since the server shuts down.
    """

    def __init__(
        self,
        app: ASGIApp,
        observe_response: ObserveResponse,
        observe_error: Callable[[Exception], None] = lambda error: None,
        is_leaving: Callable[[], bool] = lambda: False,
    ) -> None:
        self.app, self._observe_response = app, observe_response
        self._observe_error, self._is_leaving = observe_error, is_leaving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        if "request_id" not in state:  # behind the gateway there is one already
            state["request_id"] = _request_id(Headers(scope=scope).get("x-request-id", ""))
        request_id: str = state["request_id"]
        method, began, status = scope["method"], time.monotonic(), 0
        is_head = method == "HEAD" and not scope["path"].endswith("/events")
        if is_head:
            scope = {**scope, "method": "GET"}

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _add_headers(message, request_id)
                if self._is_leaving():
                    MutableHeaders(scope=message)["Connection"] = "close"
            elif is_head:
                message = {**message, "body": b""}
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        except ClientDisconnect:
            log.info("request %s: client disconnected", request_id)
        except Exception as error:
            if not isinstance(error, ApiError):
                self._observe_error(error)
                log.error("request %s failed", request_id, exc_info=error)
            if status:  # the response has begun and cannot be replaced
                raise
            await to_api_error(error).response()(scope, receive, send_with_headers)
        finally:
            shown = method if method in KNOWN_METHODS else "other"
            seconds = time.monotonic() - began
            self._record(scope, shown, status or CLIENT_CLOSED_REQUEST, seconds)

    def _record(self, scope: Scope, method: str, status: int, seconds: float) -> None:
        """Write the log line and update the metrics."""
        route = getattr(scope.get("route"), "path", "other")
        request_id, owner = scope["state"]["request_id"], scope["state"].get("owner")
        self._observe_response(method, route, status, seconds)
        log.log(
            logging.DEBUG if route in PROBE_PATHS else logging.INFO,
            "%s %s %d (%s)",
            *(method, route, status, f"{request_id}, {owner}" if owner else request_id),
            extra={
                "request_id": request_id,
                "status": status,
                "seconds": round(seconds, 4),
                "key": owner,
            },
        )


def _add_headers(message: Message, request_id: str) -> None:
    headers = MutableHeaders(scope=message)
    headers["X-Request-Id"] = request_id
    for name, value in RESPONSE_HEADERS.items():
        headers.setdefault(name, value)


def _request_id(client_id: str) -> str:
    """Return the client's request id if it is a plain word, else a new one."""
    if re.fullmatch(r"[\w.-]{1,64}", client_id, re.ASCII):
        return client_id
    return secrets.token_hex(8)
