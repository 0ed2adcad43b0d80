"""Mark the parts of a page that need another layout on a phone; see `stylesheets/site.css`.

The input is the HTML that Markdown writes: tables do not contain tables, and text is escaped.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

from PIL import Image

PROSE = 40
"""Characters in a cell (not of the first column) above which a table has text, not figures."""
_TAG = re.compile(r"<[^>]*>")
_TABLE = re.compile(r"<table>.*?</table>", re.DOTALL)
_ROW = re.compile(r"<tr>.*?</tr>", re.DOTALL)
_CELL = re.compile(r"<t(?P<kind>[hd])(?P<attributes>[^>]*)>(?P<content>.*?)</t[hd]>", re.DOTALL)
_CODE = re.compile(r"(<code[^>]*>)(.*?)(</code>)", re.DOTALL)
_BLOCK = re.compile(r"<pre>(?P<content>.*?)</pre>", re.DOTALL)
_COLUMNS = re.compile(r"\S {3,}\S")
_HYPHENATED = re.compile(r"(?<![\w./-])-{0,2}[\w.]+(?:-[\w.]+)+|(?<![\w./-])--?[A-Za-z]\w*")
_PICTURE = re.compile(r'(?P<tag><img[^>]*? src="(?P<source>[^"]+)"[^>]*>)')
_LONGEST_WORD = 30


def mark(html: str, folder: Path) -> str:
    """Mark tables, code and pictures. `folder` is where the pictures' relative paths start."""
    html = _TABLE.sub(lambda match: _stacked(match[0]), html)
    html = _CODE.sub(lambda match: match[1] + _unbroken(match[2]) + match[3], html)
    html = _BLOCK.sub(lambda match: _aligned(match[0], match["content"]), html)
    return _PICTURE.sub(lambda match: _linked(match["tag"], match["source"], folder), html)


def _text(html: str) -> str:
    return _TAG.sub("", html).strip()


def _stacked(table: str) -> str:
    """Label every cell of a table of text, so that each row can be shown as a list."""
    cells = [_CELL.findall(row) for row in _ROW.findall(table)]
    if len(cells[0]) < 3 or all(len(_text(c)) <= PROSE for row in cells for _, _, c in row[1:]):
        return table
    labels = [_text(content) for _, _, content in cells[0]]

    def labelled(row: re.Match[str]) -> str:
        names = iter(labels)
        return _CELL.sub(lambda cell: _labelled(cell, next(names)), row[0])

    return _ROW.sub(labelled, table).replace("<table>", '<table data-narrow="stacked">', 1)


def _labelled(cell: re.Match[str], label: str) -> str:
    if cell["kind"] == "h" or not label:
        return cell[0]
    return f'<td{cell["attributes"]} data-label="{label}">{cell["content"]}</td>'


def _unbroken(code: str) -> str:
    """Keep words with hyphens, such as `--mask-out`, on one line."""
    parts = re.split(f"({_TAG.pattern})", code)
    parts[::2] = [_HYPHENATED.sub(_word, part) for part in parts[::2]]
    return "".join(parts)


def _word(match: re.Match[str]) -> str:
    return match[0] if len(match[0]) > _LONGEST_WORD else f'<span class="word">{match[0]}</span>'


def _aligned(block: str, content: str) -> str:
    """Let code with columns scroll; other code continues on the next line."""
    has_columns = any(_COLUMNS.search(line) for line in _TAG.sub("", content).splitlines())
    return block.replace("<pre>", '<pre class="aligned">', 1) if has_columns else block


def _linked(tag: str, source: str, folder: Path) -> str:
    """Link a picture to its file. A wide one can scroll."""
    path = folder / unquote(source)
    if not path.is_file():
        return tag
    with Image.open(path) as picture:
        wide = " wide" if picture.width > 1.5 * picture.height else ""
    return f'<a class="picture{wide}" href="{source}">{tag}</a>'
