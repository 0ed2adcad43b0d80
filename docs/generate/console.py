"""The commands of a page: the lines `$ ...` of its console blocks."""

from __future__ import annotations

import re
import shlex
from pathlib import Path


def commands(page: Path, build: Path | None = None) -> list[list[str]]:
    """The words of every command, in order.

    Args:
        page: a Markdown file.
        build: where files go that the page puts into `build/`; by default there.
    """
    blocks = re.findall(r"^```console\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    found = [shlex.split(line[2:]) for line in lines]
    if build is None:
        return found
    return [[re.sub("^build/", f"{build}/", word) for word in words] for words in found]
