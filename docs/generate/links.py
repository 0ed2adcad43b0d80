"""Convert the links of pages from paths in the repository to pages of the site.

The documents are also read in the repository, where links are paths. On the site, a link to another
page stays a link, one to a program in `examples/` leads to its source on the examples page, and one
to another file becomes code.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INCLUDED = {
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "benchmarks/LOG.md": "log.md",
    "benchmarks/README.md": "benchmarks.md",
    "demo/model/README.md": "demo-model.md",
    "examples/README.md": "examples.md",
}
"""Documents outside `docs/` that are pages, and their address on the site."""
_LINK = re.compile(
    r"(?P<image>!?)\[(?P<text>[^\]\[]*(?:\[[^\]]*\][^\]\[]*)*)\]\((?P<target>[^)\s]+)\)"
)

_FETCHED = re.compile(
    r"<(?:script|img|iframe|video|source|link(?=[^>]*rel=[\"']?(?:stylesheet|preconnect|icon)))"
    r"[^>]*?\s(?:src|href)=[\"']?((?:https?:)?//[^\"' >]+)"
)


def repository_path(page: str) -> str:
    """The path in the repository of a page of the site."""
    return next((path for path, name in INCLUDED.items() if name == page), f"docs/{page}")


def site_path(path: str) -> str | None:
    """The address on the site of a file of the repository; None if it is not on the site."""
    if path in INCLUDED:
        return INCLUDED[path]
    if posixpath.dirname(path) == "examples" and (ROOT / path).is_file():
        return f"examples.md#{posixpath.basename(path).replace('.', '')}"
    inside = path.startswith("docs/") and not path.startswith("docs/generate/")
    return path.removeprefix("docs/") if inside and (ROOT / path).is_file() else None


def links(text: str) -> Iterator[tuple[int, str]]:
    """Every link and picture of a document outside code: the line number and the target."""
    for number, line in _prose(text):
        for match in _LINK.finditer(re.sub(r"`[^`]*`", "``", line)):
            yield number, match["target"]


def _prose(text: str) -> Iterator[tuple[int, str]]:
    """The numbered lines outside fenced code blocks."""
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        fence = line.lstrip().startswith("```")
        if not (fenced or fence):
            yield number, line
        fenced ^= fence


def is_external(target: str) -> bool:
    """Whether a target is an address rather than a file."""
    return bool(re.match(r"[a-z]+:", target)) or target.startswith("//")


def rewrite(text: str, page: str) -> str:
    """Return a page's text with every link converted. `page` is its address on the site."""
    lines = text.splitlines()
    for number, line in _prose(text):
        lines[number - 1] = _LINK.sub(lambda match: _rewritten(match, page), line)
    return "\n".join(lines) + "\n"


def _rewritten(match: re.Match[str], page: str) -> str:
    target, _, anchor = match["target"].partition("#")
    if not target or is_external(match["target"]):
        return match[0]
    folder = posixpath.dirname(repository_path(page))
    path = posixpath.normpath(posixpath.join(folder, target))
    address = site_path(path)
    if address is None:
        return _as_code(match["text"]) if (ROOT / path).exists() else match[0]
    relative = posixpath.relpath(address, posixpath.dirname(page) or ".")
    return f"{match['image']}[{match['text']}]({relative}{'#' if anchor else ''}{anchor})"


def _as_code(text: str) -> str:
    is_path = "/" in text or "." in text
    return f"`{text}`" if is_path and re.fullmatch(r"[\w./-]+", text) else text


def fetched(html: str) -> list[str]:
    """The addresses on other hosts that a browser fetches when it shows a page."""
    return _FETCHED.findall(html)
