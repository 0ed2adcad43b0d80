"""What the page says: words that an artist knows, in its HTML and in the strings of its modules."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import diffedit.server

PAGE = Path(diffedit.server.__file__).parent / "page"
TECHNICAL = re.compile(
    r"\b(denoiser|denois\w*|rows?|latents?|heat ?maps?|guidance|inference|embeddings?|encod\w+|"
    r"decod\w+|presets?|cells?|thresholds?|networks?|tokens?|cach\w+|dilat\w+|obey)\b",
    re.IGNORECASE,
)
SENTENCE = re.compile(r"""(["'`])([A-Z][a-z]*(?: [^"'`\n]*|(?<=..)))\1""")
"""A string of a module that begins as a label or a sentence does."""


class Words(HTMLParser):
    """Collects the texts and the labels of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        shown = ("title", "aria-label", "placeholder", "alt")
        self.found += [value for name, value in attrs if name in shown and value]

    def handle_data(self, data: str) -> None:
        self.found.append(" ".join(data.split()))


def shown_texts() -> Iterator[tuple[str, str]]:
    """File and text."""
    words = Words()
    words.feed((PAGE / "index.html").read_text())
    yield from (("index.html", text) for text in words.found if text)
    for path in sorted(PAGE.glob("*.js")):
        code = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)
        code = re.sub(r"(?m)(^|\s)//.*$", "", code)
        for match in SENTENCE.finditer(code):
            yield path.name, re.sub(r"\$\{[^}]*\}", "", match[2])


def test_texts_of_the_page_are_found() -> None:
    texts = [text for _, text in shown_texts()]
    assert {"What should be there", "How far from the original", "Finding the mask"} <= {*texts}
    assert any(text.startswith("A good start") for text in texts)
    assert len(texts) > 150


def test_the_page_says_nothing_in_technical_words() -> None:
    wrong = [(file, text) for file, text in shown_texts() if TECHNICAL.search(text)]
    assert not wrong
