"""The commands of a page: lines `$ ...` of its console blocks, with continuation lines."""

from __future__ import annotations

import re
import shlex
from pathlib import Path


def commands(page: Path, build: Path | None = None) -> list[list[str]]:
    """The words of every command, in order.

    Args:
        page: a Markdown file.
        build: the folder to use instead of `build/` in the commands; by default `build/` itself.
    """
    blocks = re.findall(r"^```console\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    whole = "".join(blocks).replace("\\\n", "")
    lines = [line for line in whole.splitlines() if line.startswith("$ ")]
    found = [shlex.split(line[2:]) for line in lines]
    if build is None:
        return found
    return [[re.sub("^build/", f"{build}/", word) for word in words] for words in found]
