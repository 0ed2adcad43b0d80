"""The page, the API reference and the OpenAPI document. They need no key."""

from __future__ import annotations

from html import escape
from importlib import resources

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from diffedit.server import reference
from diffedit.server.auth import PAGE_PATHS

MEDIA_TYPES = {
    "html": "text/html",
    "js": "text/javascript",
    "css": "text/css",
    "svg": "image/svg+xml",
}


def add_routes(router: APIRouter) -> None:
    """Add the files of the page, the reference and the OpenAPI document."""
    for path in PAGE_PATHS:
        router.add_api_route(path, page_file, methods=["GET"], include_in_schema=False)
    router.add_api_route("/docs", reference_page, methods=["GET"], include_in_schema=False)
    router.add_api_route("/openapi.json", openapi, methods=["GET"], include_in_schema=False)


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


async def openapi(request: Request) -> Response:
    """Return the OpenAPI document."""
    return JSONResponse(request.app.openapi())
