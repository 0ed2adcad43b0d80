"""Checks before any route: API key, host name, origin and body size.

Closed by default: with an API key file, every path except `PUBLIC_PATHS` needs a key.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diffedit.server.errors import ApiError, body_too_large
from diffedit.server.failed_keys import FailedKeys
from diffedit.server.settings import LOOPBACK, Settings
from engine.errors import DiffEditError

PAGE_MODULES = (
    *("page", "state", "render", "tasks", "api", "form", "options", "snippets", "storage"),
    *("mask", "overlay", "brush", "pictures", "view"),
)
STYLES = ("/page.css", "/docs.css")
PAGE_PATHS = ("/", *(f"/{name}.js" for name in PAGE_MODULES), *STYLES, "/icon.svg")
PUBLIC_PATHS = ("/livez", "/readyz", "/openapi.json", "/docs", *PAGE_PATHS)
"""Paths that need no key: the probes, the API description and the page."""

MIN_KEY_LENGTH = 16


class ApiKeys:
    """The API keys of one file, stored as SHA-256 digests.

    The file has one name and one key per line; `#` starts a comment line.
    """

    def __init__(self, digests: dict[bytes, str]) -> None:
        self._digests = digests

    @classmethod
    def read(cls, path: Path) -> ApiKeys:
        """Read a key file. Raises DiffEditError if it is missing, empty or malformed."""
        try:
            lines = path.read_text("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not a text file"
            raise DiffEditError(
                f"The key file {path} cannot be read ({reason}); check its path and permissions."
            ) from None
        digests: dict[bytes, str] = {}
        lines_of_keys: dict[bytes, int] = {}
        for number, line in enumerate(lines, 1):
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            if not _valid_line(words):
                raise DiffEditError(
                    f"Line {number} of {path} must be a name of letters, digits or . _ @ + - and a "
                    f"key of {MIN_KEY_LENGTH} or more ASCII characters, for example: "
                    f"alice {secrets.token_urlsafe(24)}"
                )
            digest = hashlib.sha256(words[1].encode()).digest()
            if lines_of_keys.setdefault(digest, number) != number:
                raise DiffEditError(
                    f"Lines {lines_of_keys[digest]} and {number} of {path} contain the same key, "
                    "so it would not identify one client; use a different key for each name."
                )
            digests[digest] = words[0]
        if not digests:
            raise DiffEditError(
                f"The key file {path} contains no key; add one, or start without --api-keys."
            )
        return cls(digests)

    @property
    def names(self) -> set[str]:
        """The names of the keys."""
        return set(self._digests.values())

    def owner(self, key: str) -> str | None:
        """Return the name of a key, or None if it is unknown. Takes the same time for every key."""
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        owner = None
        for known_digest, name in self._digests.items():
            if hmac.compare_digest(known_digest, digest):
                owner = name
        return owner


def _valid_line(words: list[str]) -> bool:
    """Whether the words of a line are a name, which the log shows, and a key."""
    if len(words) != 2 or not re.fullmatch(r"[\w.@+-]{1,64}", words[0]):
        return False
    key = words[1]
    return len(key) >= MIN_KEY_LENGTH and key.isascii() and key.isprintable()


class Keys(Protocol):
    """The keys that the middleware checks."""

    def owner(self, key: str) -> str | None:
        """Return the name of a key, or None if it is unknown."""
        ...


class AuthMiddleware:
    """ASGI middleware. Sets `scope["state"]["owner"]` to the name of the key, or None.

    Args:
        app: the wrapped application.
        settings: `allowed_hosts`, `host` and `max_body_bytes` are used.
        keys: the API keys, or None if requests need no key.
    """

    def __init__(self, app: ASGIApp, settings: Settings, keys: Keys | None) -> None:
        self.app, self._keys = app, keys
        # On a loopback address the Host header is always checked, against DNS rebinding.
        check_host = settings.loopback or settings.allowed_hosts
        hosts = (*LOOPBACK, settings.host, *settings.allowed_hosts)
        self._hosts = hosts if check_host else None
        self._max_body_bytes = settings.max_body_bytes
        self._failed_keys = FailedKeys()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, received = Headers(scope=scope), 0
        scope.setdefault("state", {})["owner"] = self._owner(headers)

        async def receive_limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_body_bytes:  # a chunked body has no Content-Length
                raise body_too_large(self._max_body_bytes)
            return message

        error = self._check(scope, headers)
        if error is not None and error.status == 401 and "authorization" in headers:
            await self._failed_keys.slow_down((scope.get("client") or ("",))[0])
        app = error.response() if error else self.app
        await app(scope, receive_limited, send)

    def _owner(self, headers: Headers) -> str | None:
        """Return the name of the request's key, or None."""
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if self._keys is None or scheme.lower() != "bearer":
            return None
        return self._keys.owner(key.strip())

    def _check(self, scope: Scope, headers: Headers) -> ApiError | None:
        """Return why the request is refused, or None."""
        host = headers.get("host", "")
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            message = "Content-Length is not a number; send the number of bytes of the body."
            return ApiError(400, "malformed", message, "Content-Length")
        host_name = re.sub(r":\d+$", "", host).strip("[]").lower().removesuffix(".")
        if self._hosts is not None and host_name not in self._hosts:
            message = "This host name is not allowed; start the server with --allowed-host NAME."
            return ApiError(403, "unknown_host", message)
        origin = headers.get("origin")
        if origin is not None and _host_of(origin) != host.lower():
            message = "Cross-origin requests are not allowed; use the page that this server serves."
            return ApiError(403, "foreign_origin", message)
        if int(length[:20]) > self._max_body_bytes:
            return body_too_large(self._max_body_bytes)
        if self._keys is None or scope["path"] in PUBLIC_PATHS:
            return None
        if scope["state"]["owner"] is None:
            return ApiError(
                401,
                "invalid_api_key",
                "The API key is missing or unknown; send it as: Authorization: Bearer KEY.",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return None


def _host_of(origin: str) -> str | None:
    """The host and port of an Origin header, or None if it is not a URL."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:  # such as "http://["
        return None
