"""Add commands to the typer app: groups of options as dataclasses, and help with examples.

A command that takes `options: ModelOptions` gets one command-line option per field of that
dataclass, and receives the parsed values as one object.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import typer

from diffedit.cli.errors import UsageError
from engine.option_groups import expand_groups, keyword, set_parameters


def add_command(
    app: typer.Typer,
    function: Callable[..., None],
    *,
    examples: str = "",
    name: str | None = None,
    more_files: str = "",
) -> None:
    """Register a function as a command of `app`.

    Args:
        app: the program or a group of commands.
        function: its parameters are options (annotated as typer expects) or option groups
            (annotated with a dataclass); its docstring is the help text.
        examples: text below the options in `--help`.
        name: name of the command, if it differs from the function's.
        more_files: advice for the error about too many files; "" for click's own error.
    """
    help_text = _unwrap(inspect.getdoc(function) or "")
    epilog = f"[bold]Examples[/bold]\n{examples.rstrip()}" if examples else None
    settings = {"allow_extra_args": bool(more_files)}
    command = expand_groups(function)
    if more_files:
        command = _refuse_more(command, more_files)
    app.command(name=name, help=help_text, epilog=epilog, context_settings=settings)(command)


def _refuse_more(command: Callable[..., Any], more_files: str) -> Callable[..., Any]:
    """Wrap a command to refuse further arguments with `more_files` as the advice."""

    def refusing(context: typer.Context, **values: Any) -> Any:
        if context.args:
            names = ", ".join(context.args[:3]) + (", ..." if len(context.args) > 3 else "")
            raise UsageError(
                f"`{command.__name__}` does not take {len(context.args)} more files ({names}); "
                f"{more_files}"
            )
        return command(**values)

    refusing.__name__, refusing.__doc__ = command.__name__, command.__doc__
    parameters = [*inspect.signature(command).parameters.values()]
    parameters.append(keyword("context", inspect.Parameter.empty, typer.Context))
    set_parameters(refusing, parameters)
    return refusing


def _unwrap(text: str) -> str:
    """Join the lines of each paragraph; the terminal wraps them to its own width."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
