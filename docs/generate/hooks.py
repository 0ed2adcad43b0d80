"""Hooks of mkdocs: add pages, fill in the generated parts, and check the site.

The build fails if a public name has no docstring, if an example in a docstring gives another result
than it shows, or if a page would fetch a file from another host. mkdocs checks links, anchors and
the navigation.
"""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from docs.generate import links, narrow
from docs.generate.command_line import command_line, exit_codes
from docs.generate.doctests import wrong_examples
from docs.generate.error_codes import error_codes
from docs.generate.examples import examples
from docs.generate.http import http_api
from docs.generate.import_diagram import import_diagram
from docs.generate.imports import import_table
from docs.generate.public_names import without_docstring
from docs.generate.settings import settings
from docs.generate.warning_codes import warning_codes

GENERATED = {
    "command-line": command_line,
    "error-codes": error_codes,
    "examples": examples,
    "exit-codes": exit_codes,
    "http": http_api,
    "import-diagram": import_diagram,
    "imports": import_table,
    "settings": settings,
    "warning-codes": warning_codes,
}
_MARKER = re.compile(r"^<!-- generated: (?P<name>[a-z-]+) -->$", re.MULTILINE)
_TEMPLATE_NOTE = re.compile(r"^\*Template: .*\*\n\n", re.MULTILINE)
"""The note in the repository's files instead of the generated parts."""


def on_startup(command: str, dirty: bool) -> None:
    """Keep warnings with `--quiet`, which drops them before `--strict` can count them."""
    logger = logging.getLogger("mkdocs")
    logger.setLevel(min(logger.getEffectiveLevel(), logging.WARNING))


def on_pre_build(config: Any) -> None:
    """Raise PluginError if a public name has no docstring, or an example is wrong."""
    missing = without_docstring()
    if missing:
        raise PluginError(f"These public names have no docstring: {', '.join(missing)}; add one.")
    wrong = wrong_examples()
    if wrong:
        raise PluginError(f"Examples in docstrings give other results; correct them:\n{wrong}")


def on_files(files: Files, config: Any) -> Files:
    """Add the documents outside `docs/`."""
    for path, name in links.INCLUDED.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Fill in the generated parts, and convert links."""
    linked = links.rewrite(_TEMPLATE_NOTE.sub("", markdown), page.file.src_uri)
    return _MARKER.sub(lambda match: GENERATED[match["name"]](), linked)


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Prepare tables, code and pictures for narrow screens."""
    return narrow.mark(html, Path(config["docs_dir"], page.file.src_uri).parent)


def on_post_build(config: Any) -> None:
    """Raise PluginError if a page fetches a file from another host."""
    for page in sorted(Path(config["site_dir"]).rglob("*.html")):
        for address in links.fetched(page.read_text()):
            raise PluginError(f"{page} fetches {address}; serve it from the site itself.")
