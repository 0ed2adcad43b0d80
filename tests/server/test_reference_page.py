"""The API reference at /docs: complete, without scripts and other hosts, and public."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from diffedit.server import reference
from diffedit.server.form_fields import TEXT_FIELDS


class Page(HTMLParser):
    """The attributes of every tag of a page, and whether all tags are closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: dict[str, list[dict[str, str | None]]] = defaultdict(list)
        self.open: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag].append(dict(attrs))
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def page(client: TestClient) -> Page:
    answer = client.get("/docs")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return Page(answer.text)


def test_it_has_every_endpoint_and_every_field(client: TestClient, page: Page) -> None:
    assert not page.open
    document = client.get("/openapi.json").json()
    sections = {section["id"] for section in page.tags["section"]}
    operations = [
        (method, path) for path, methods in document["paths"].items() for method in methods
    ]
    assert len(sections) == len(operations) == len(page.tags["section"])
    for method, path in operations:
        assert f"{method.upper()} {path}" in page.text
    for name in (*TEXT_FIELDS, "image", "mask", "Idempotency-Key"):
        assert name in page.text
    assert "curl http://localhost/v1/images/edits -F image=@photo.png" in page.text
    assert "not blank" in page.text or "without control characters" in page.text


def test_its_links_lead_somewhere_on_this_server(client: TestClient, page: Page) -> None:
    sections = {section["id"] for section in page.tags["section"]}
    addresses = [tag["href"] or "" for tag in (*page.tags["a"], *page.tags["link"])]
    for address in addresses:
        if address.startswith("#"):
            assert address[1:] in sections
        else:
            assert address.startswith("/") and not address.startswith("//")
            assert client.get(address).status_code == 200, address


def test_the_content_security_policy_allows_all_of_it(client: TestClient, page: Page) -> None:
    policy = client.get("/docs").headers["content-security-policy"]
    assert "style-src 'self'" in policy and "unsafe" not in policy
    assert not {"script", "style", "iframe", "img"} & set(page.tags)
    attributes = {name for tags in page.tags.values() for tag in tags for name in tag}
    assert not {name for name in attributes if name == "style" or name.startswith("on")}


def test_it_needs_no_key_and_answers_head(
    make_client: Callable[..., TestClient], tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("alice alices-key-of-some-length\n")
    secured = make_client(api_keys=keys)
    for path in ("/docs", "/docs.css"):
        assert secured.get(path).status_code == 200
        assert secured.head(path).status_code == 200
    assert secured.get("/v1/models").status_code == 401


def test_texts_of_the_document_are_escaped() -> None:
    responses: Any = {"200": {"description": "<b>", "content": {}}}
    operation = {"summary": "<script>", "description": "a `<i>` b", "responses": responses}
    document = {
        "info": {"title": "<x>", "version": "1"},
        "paths": {"/<img>": {"get": operation}},
    }
    shown = Page(reference.render(document))
    assert not {"script", "img", "i", "x"} & set(shown.tags)
    assert "a <i> b" in shown.text
