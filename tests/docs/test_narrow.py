"""What a page needs to be readable on a phone is marked in its HTML."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from docs.generate.narrow import PROSE, mark

NOWHERE = Path("/nonexistent")
LONG = "x" * (PROSE + 1)


def table(*rows: tuple[str, ...]) -> str:
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    head = "".join(f"<th>{name}</th>" for name in ("", "a", "<code>b</code>")[: len(rows[0])])
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def test_the_cells_of_a_table_of_text_get_their_column_as_a_label() -> None:
    page = mark(table(("n", "1", f"<b>{LONG}</b>")), NOWHERE)
    assert '<table data-narrow="stacked">' in page
    assert f'<td>n</td><td data-label="a">1</td><td data-label="b"><b>{LONG}</b></td>' in page


@pytest.mark.parametrize(
    "page", [table((LONG, "0.5", "0.6")), table(("n", LONG))], ids=["figures", "two columns"]
)
def test_other_tables_stay(page: str) -> None:
    assert mark(page, NOWHERE) == page


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("edit --mask-out FILE", ["--mask-out"]),
        ("--json -q", ["--json", "-q"]),
        ("docs/how-to.md", []),
        ("a &lt;x-y&gt; x - y", ["x-y"]),
        (f"--{'long-' * 8}name", []),
        ('<span class="a-b">c-d</span>', ["c-d"]),
    ],
)
def test_words_with_hyphens_stay_whole_in_code(code: str, words: list[str]) -> None:
    page = mark(f"<code>{code}</code>", NOWHERE)
    expected = code
    for word in words:
        expected = expected.replace(word, f'<span class="word">{word}</span>')
    assert page == f"<code>{expected}</code>"


def test_text_outside_code_stays() -> None:
    assert mark("<p>a --b c-d</p>", NOWHERE) == "<p>a --b c-d</p>"


def test_code_with_columns_scrolls() -> None:
    page = "<pre><span></span><code>make     # comment\n</code></pre>"
    assert mark(page, NOWHERE) == page.replace("<pre>", '<pre class="aligned">')
    page = "<pre><code>edit \\\n        more\n</code></pre>"
    assert mark(page, NOWHERE) == page


def test_a_picture_links_to_its_file(tmp_path: Path) -> None:
    Image.new("L", (200, 100)).save(tmp_path / "a strip.png")
    Image.new("L", (100, 100)).save(tmp_path / "square.png")
    strip, square = '<img alt="" src="a%20strip.png">', '<img alt="" src="square.png">'
    assert mark(strip, tmp_path) == f'<a class="picture wide" href="a%20strip.png">{strip}</a>'
    assert mark(square, tmp_path) == f'<a class="picture" href="square.png">{square}</a>'
    assert mark(strip, NOWHERE) == strip
