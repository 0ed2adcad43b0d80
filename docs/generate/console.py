"""The commands and the Python sessions of a page, with the output that it shows."""

from __future__ import annotations

import doctest
import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple


class Step(NamedTuple):
    """A command of a page, and lines that it prints among others."""

    words: list[str]
    output: list[str]


def steps(page: Path) -> list[Step]:
    """Every command of a Markdown file, in order: lines `$ ...`, with continuation lines."""
    found: list[Step] = []
    for line in _blocks(page, "console").replace("\\\n", "").splitlines():
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


def session(page: Path, build: Path) -> list[doctest.Example]:
    """Every statement of the Python sessions of a page, with `build` instead of `build/`."""
    text = _blocks(page, "pycon").replace('"build/', f'"{build}/')
    return doctest.DocTestParser().get_examples(text, str(page))


def run_session(page: Path, build: Path) -> str:
    """Run the Python sessions of a page; returns a report of results that differ from the page."""
    report: list[str] = []
    runner = doctest.DocTestRunner(checker=_Numbers(), verbose=False)  # type: ignore[arg-type]
    runner.run(
        doctest.DocTest(session(page, build), {}, page.name, str(page), 0, None), out=report.append
    )
    return "".join(report)


def pattern(shown: str) -> str:
    """A regular expression for an output: numbers may differ, and "..." stands for any text."""
    free = re.escape(shown).replace(re.escape("..."), ".*")
    return re.sub(r"\d+(?:\\\.\d+)*", r"[\\d.]+", free)


class _Numbers:
    """Compares results of a session as `doctest.OutputChecker` does, with `pattern`."""

    def check_output(self, want: str, got: str, flags: int) -> bool:
        return re.fullmatch(pattern(want), got) is not None

    def output_difference(self, example: Any, got: str, flags: int) -> str:
        return f"Expected:\n{example.want}Got:\n{got}"


def _blocks(page: Path, language: str) -> str:
    """The contents of the code blocks in a language, one after the other."""
    found = re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    return "\n".join(found) if language == "pycon" else "".join(found)
