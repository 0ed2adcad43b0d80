"""The commands of a page: lines `$ ...` of its console blocks, with continuation lines."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple


class Step(NamedTuple):
    """A command of a page, and lines that it prints among others."""

    words: list[str]
    output: list[str]


def steps(page: Path) -> list[Step]:
    """Every command of a Markdown file, in order."""
    blocks = re.findall(r"^```console\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    found: list[Step] = []
    for line in "".join(blocks).replace("\\\n", "").splitlines():
        if line.startswith("$ "):
            found.append(Step(shlex.split(line[2:]), []))
        else:
            found[-1].output.append(line)
    return found


def commands(page: Path, build: Path | None = None) -> list[list[str]]:
    """The words of every command, in order.

    Args:
        page: a Markdown file.
        build: the folder to use instead of `build/` in the commands; by default `build/` itself.
    """
    found = [step.words for step in steps(page)]
    if build is None:
        return found
    return [[re.sub("^build/", f"{build}/", word) for word in words] for words in found]
