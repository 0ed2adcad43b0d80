"""The reference of the command line, from the same objects as `--help`."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from typing import Any

import typer
from typer.cli import get_docs_for_click
from typer.models import Context

from diffedit.cli import app
from diffedit.cli.build import compiler
from diffedit.cli.errors import EXIT_CODES


def command_line() -> str:
    """Every command with its arguments, options, defaults and examples, as Markdown."""
    program: Any = typer.main.get_command(app)
    program.commands["build"] = compiler()
    for command in _with_subcommands(program):
        command.epilog = _fenced(command.epilog or "")
        command.short_help = (command.help or "").split("\n\n")[0]  # click would cut it
    program.epilog = ""
    context = Context(program, info_name=program.name)
    return get_docs_for_click(obj=program, ctx=context, indent=1, name=program.name)


def exit_codes() -> str:
    """The table of exit codes."""
    rows = [f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items()]
    return "\n".join(["| exit code | meaning |", "|---|---|", *rows])


def _with_subcommands(command: Any) -> Iterator[Any]:
    yield command
    for child in getattr(command, "commands", {}).values():
        yield from _with_subcommands(child)


def _fenced(epilog: str) -> str:
    """Examples of the terminal's help as a block of code; any other text stays."""
    plain = re.sub(r"\[/?bold\]|\x08", "", epilog).strip()
    _, head, examples = plain.partition("Examples")
    if not head:
        return plain
    code = textwrap.dedent(examples.lstrip(":")).strip("\n")
    return f"**Examples**:\n\n```text\n{code}\n```"
