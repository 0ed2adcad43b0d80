"""Every link and picture of the documents leads to a file, and every anchor to a heading."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.generate.links import (
    INCLUDED,
    ROOT,
    fetched,
    is_external,
    links,
    rewrite,
    site_path,
)

DOCUMENTS = sorted(
    {
        path.relative_to(ROOT)
        for pattern in ("*.md", "docs/**/*.md", "benchmarks/*.md", "demo/model/*.md")
        for path in ROOT.glob(pattern)
    }
)


def anchors(path: Path) -> set[str]:
    """The anchors of a document, as GitHub and mkdocs make them."""
    found = re.findall(r"^#+ +(.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in found}


def broken(document: Path) -> list[str]:
    """The links of a document that lead nowhere, with their lines."""
    found = []
    for line, target in links((ROOT / document).read_text()):
        name, _, anchor = target.partition("#")
        path = (ROOT / document.parent / name).resolve() if name else ROOT / document
        if is_external(target):
            continue
        if not path.exists() or (anchor and anchor not in anchors(path)):
            found.append(f"{document}:{line}: {target}")
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_every_link_leads_somewhere(document: Path) -> None:
    assert broken(document) == []


def test_a_broken_link_is_found() -> None:
    text = "See [this](no.md) and ![that](a.png).\n\n```\n[code](b.md)\n```\n`[code](c.md)`\n"
    assert list(links(text)) == [(1, "no.md"), (1, "a.png")]


def test_links_become_links_of_the_site() -> None:
    text = "[a](../ARCHITECTURE.md#files) [`b`](../Makefile) [c](server.md) [d](https://x.org/)\n"
    assert rewrite(text, "models.md") == (
        "[a](architecture.md#files) `b` [c](server.md) [d](https://x.org/)\n"
    )
    text = "![p](docs/gallery.png) [log](benchmarks/LOG.md) [gone](docs/gone.md)\n"
    assert rewrite(text, "architecture.md") == (
        "![p](gallery.png) [log](log.md) [gone](docs/gone.md)\n"
    )
    text = "[a](../examples/folder.py) [engine/errors.py](../engine/errors.py) [it](../Makefile)\n"
    assert rewrite(text, "models.md") == ("[a](examples.md#folderpy) `engine/errors.py` it\n")
    assert rewrite("[a](../index.md)\n", "tutorials/first-edit.md") == "[a](../index.md)\n"


def test_code_of_the_generator_is_not_on_the_site() -> None:
    assert site_path("docs/generate/links.py") is None
    assert all((ROOT / path).is_file() for path in INCLUDED)


def test_what_a_page_fetches_is_found() -> None:
    page = '<link rel="stylesheet" href="https://x.org/a.css"><script async src=//y.org/b.js>'
    assert fetched(page) == ["https://x.org/a.css", "//y.org/b.js"]
    assert fetched('<a href="https://x.org/"><img src="a.png"><link rel="icon" href="i.png">') == []
