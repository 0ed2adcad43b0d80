"""At the door, before any route: whose request it is, and where it comes from.

Closed by default: every path but the few in `OPEN` asks for a key where there are keys.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diffedit.server.errors import ApiError, too_large
from diffedit.server.settings import LOOPBACK, Settings
from engine.errors import DiffEditError

MODULES = ("page", "api", "mask", "copy", "keep")
PAGE_PATHS = ("/", *(f"/{name}.js" for name in MODULES), "/page.css", "/icon.svg")
OPEN = ("/livez", "/readyz", "/openapi.json", *PAGE_PATHS)
"""What may be read without a key: whether the server lives, what it can do, and the page."""


class ApiKeys:
    """The keys of one file: a name and a key a line, `#` for comments. Kept as digests."""

    def __init__(self, digests: dict[bytes, str]) -> None:
        self._digests = digests

    @classmethod
    def read(cls, path: Path) -> ApiKeys:
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


class AuthMiddleware:
    """Pure ASGI: keys, host names, origins, and the size of bodies."""

    def __init__(self, app: ASGIApp, settings: Settings, keys: ApiKeys | None) -> None:
        self.app, self._keys = app, keys
        # Names are checked where only this machine should come (against rebound names), or where
        # some are listed.
        checked = settings.loopback or settings.allowed_hosts
        self._hosts = (*LOOPBACK, *settings.allowed_hosts) if checked else None
        self._max_body_bytes = settings.max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, taken = Headers(scope=scope), 0
        scope.setdefault("state", {})["owner"] = self._owner(headers)

        async def take() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._max_body_bytes:  # of a body that did not say its length
                raise too_large(self._max_body_bytes)
            return message

        refused = self._refuses(scope, headers)
        app = refused.response() if refused else self.app
        await app(scope, take, send)

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
