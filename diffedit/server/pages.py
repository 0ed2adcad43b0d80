"""What the server shows in a browser: the page and the API reference. Both need no key."""

from __future__ import annotations

from html import escape
from importlib import resources

from fastapi import APIRouter, Request
from fastapi.responses import Response

from diffedit.server import reference
from diffedit.server.auth import PAGE_PATHS

MEDIA_TYPES = {
    "html": "text/html",
    "js": "text/javascript",
    "css": "text/css",
    "svg": "image/svg+xml",
}


def add_routes(router: APIRouter) -> None:
    """Add the files of the page, and the reference."""
    for path in PAGE_PATHS:
        router.add_api_route(path, page_file, methods=["GET"], include_in_schema=False)
    router.add_api_route("/docs", reference_page, methods=["GET"], include_in_schema=False)


async def page_file(request: Request) -> Response:
    """Return a file of the page."""
    name = request.url.path.lstrip("/") or "index.html"
    data = resources.files("diffedit.server").joinpath("page", name).read_bytes()
    return Response(data, media_type=f"{MEDIA_TYPES[name.split('.')[-1]]}; charset=utf-8")


async def reference_page(request: Request) -> Response:
    """Return the API reference."""
    base = escape(str(request.base_url).rstrip("/"))
    page = reference.render(request.app.openapi()).replace(reference.BASE, base)
    return Response(page, media_type="text/html; charset=utf-8")
