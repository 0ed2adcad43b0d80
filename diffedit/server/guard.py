"""At the door, before any route: whose request it is, where it comes from, and what it is called.

Closed by default: every path but the few in `OPEN` asks for a key where there are keys.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diffedit.server.errors import ApiError, api_error, too_large
from engine.spec import DiffEditError

log = logging.getLogger(__name__)

MODULES = ("page", "api", "mask", "copy", "keep")
PAGE_PATHS = ("/", *(f"/{name}.js" for name in MODULES), "/page.css", "/icon.svg")
OPEN = ("/livez", "/readyz", "/openapi.json", *PAGE_PATHS)
"""What may be read without a key: whether the server lives, what it can do, and the page."""
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


METHODS = ("GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS")
"""Those that figures are kept of; a stranger's own words are not."""
PROBES = ("/livez", "/readyz", "/metrics")
GONE = 499
"""In the log and the figures: the client left before there was an answer."""


class Keys:
    """The keys of one file: a name and a key a line, `#` for comments. Kept as digests."""

    def __init__(self, digests: dict[bytes, str]) -> None:
        self._digests = digests

    @classmethod
    def read(cls, path: Path) -> Keys:
        """Raises DiffEditError where the file is missing, empty or malformed."""
        try:
            lines = path.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is no text"
            raise DiffEditError(f"The key file {path} cannot be read: {why}.") from None
        digests: dict[bytes, str] = {}
        for number, line in enumerate(lines, 1):
            words = line.split()
            if not words or line.startswith("#"):
                continue
            if len(words) != 2 or len(words[1]) < 16 or not words[1].isascii():
                raise DiffEditError(
                    f"Line {number} of {path} must be a name and a key of 16 or more letters, as "
                    f"in: alice {secrets.token_urlsafe(24)}"
                )
            digests[hashlib.sha256(words[1].encode()).digest()] = words[0]
        if not digests:
            raise DiffEditError(f"The key file {path} holds no key; add one, or leave it out.")
        return cls(digests)

    def owner(self, key: str) -> str | None:
        """Whose key it is; every comparison takes the same time."""
        given = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        found = None
        for digest, name in self._digests.items():
            if hmac.compare_digest(digest, given):
                found = name
        return found


class Guard:
    """Pure ASGI: request ids, keys, host names, origins, headers, and the log's one line."""

    def __init__(
        self,
        app: ASGIApp,
        keys: Keys | None,
        hosts: tuple[str, ...] | None,
        max_body_bytes: int,
        seen: Callable[[str, str, int, float], None],
    ) -> None:
        self.app, self._keys, self._hosts, self._seen = app, keys, hosts, seen
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = _request_id(headers.get("x-request-id", ""))
        state = scope.setdefault("state", {})
        state["request_id"], state["owner"] = request_id, self._owner(headers)
        began, status, taken = time.monotonic(), 0, 0

        async def take() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._max_body_bytes:  # of a body that did not say its length
                raise too_large(self._max_body_bytes)
            return message

        async def finish(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                out = MutableHeaders(scope=message)
                out["X-Request-Id"] = request_id
                for name, value in HEADERS.items():
                    out.setdefault(name, value)
            await send(message)

        try:
            refused = self._refuses(scope, headers)
            app = refused.response() if refused else self.app
            await app(scope, take, finish)
        except ClientDisconnect:
            log.info("request %s: the client left before all of it had come", request_id)
        except Exception as error:  # a bug: told once, in the log; the connection lives on
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

    def _owner(self, headers: Headers) -> str | None:
        """The name of the key that came along, or None."""
        kind, _, key = headers.get("authorization", "").partition(" ")
        if self._keys is None or kind.lower() != "bearer":
            return None
        return self._keys.owner(key.strip())

    def _refuses(self, scope: Scope, headers: Headers) -> ApiError | None:
        host = headers.get("host", "")
        name = re.sub(r":\d+$", "", host).strip("[]").lower()
        if self._hosts is not None and name not in self._hosts:
            return ApiError(
                403, "unknown_host", "This server is not known by that name; see --allowed-host."
            )
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return ApiError(403, "foreign_origin", "Pages of other sites may not use this server.")
        length = headers.get("content-length", "")
        if length.isascii() and length.isdigit() and int(length[:20]) > self._max_body_bytes:
            return too_large(self._max_body_bytes)
        if self._keys is None or scope["path"] in OPEN:
            return None
        if self._owner(headers) is None:
            return ApiError(
                401,
                "invalid_api_key",
                "No key, or an unknown one; send it as: Authorization: Bearer KEY.",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return None


def _request_id(given: str) -> str:
    """The client's own id where it is a plain word, else a new one."""
    return given if re.fullmatch(r"[\w.-]{1,64}", given, re.ASCII) else secrets.token_hex(8)
