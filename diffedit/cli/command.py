"""Add commands to the typer app: groups of options as dataclasses, and help with examples.

A command that takes `options: ModelOptions` gets one command-line option per field of that
dataclass, and receives the parsed values as one object.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, get_type_hints

import typer

from diffedit.cli.errors import UsageError


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
        more_files: what to do if more files are named than the command takes; "" for click's error.
    """
    help_text = _unwrap(inspect.getdoc(function) or "")
    epilog = f"[bold]Examples[/bold]\n{examples.rstrip()}" if examples else None
    settings = {"allow_extra_args": bool(more_files)}
    command = expand_groups(function, more_files)
    app.command(name=name, help=help_text, epilog=epilog, context_settings=settings)(command)


def expand_groups(function: Callable[..., Any], more_files: str = "") -> Callable[..., Any]:
    """Return a function whose signature lists the fields of every option group one by one.

    With `more_files`, it refuses arguments that are left over, and says so.
    Fields without an annotation for typer are not options and keep their defaults.
    """
    hints = get_type_hints(function, include_extras=True)
    parameters = inspect.signature(function).parameters
    groups = {name: hints[name] for name in parameters if dataclasses.is_dataclass(hints[name])}

    def command(**values: Any) -> Any:
        left_over = values.pop("context").args if more_files else []
        if left_over:
            names = ", ".join(left_over[:3]) + (", ..." if len(left_over) > 3 else "")
            raise UsageError(
                f"`{function.__name__}` does not take {len(left_over)} more files ({names}); "
                f"{more_files}"
            )
        for name, group in groups.items():
            fields = [option.name for option in _group_parameters(group)]
            values[name] = group(**{field: values.pop(field) for field in fields})
        return function(**values)

    expanded = list(_expanded(parameters, hints, groups))
    if more_files:
        expanded.append(_keyword("context", inspect.Parameter.empty, typer.Context))
    command.__name__, command.__doc__ = function.__name__, function.__doc__
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in expanded}
    command.__signature__ = inspect.Signature(expanded)  # type: ignore[attr-defined]
    return command


def _expanded(
    parameters: Mapping[str, inspect.Parameter], hints: Mapping[str, Any], groups: Mapping[str, Any]
) -> Iterator[inspect.Parameter]:
    """Yield keyword parameters: a plain option as it is, a group as its fields."""
    for name, parameter in parameters.items():
        if name in groups:
            yield from _group_parameters(groups[name])
        else:
            yield _keyword(name, parameter.default, hints[name])


@functools.cache
def _group_parameters(group: Any) -> tuple[inspect.Parameter, ...]:
    """Return the fields of an option group as keyword parameters."""
    hints = get_type_hints(group, include_extras=True)
    return tuple(
        _keyword(
            field.name,
            inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default,
            hints[field.name],
        )
        for field in dataclasses.fields(group)
        if hasattr(hints[field.name], "__metadata__")
    )


def _keyword(name: str, default: object, annotation: object) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


def _unwrap(text: str) -> str:
    """Join the lines of each paragraph; the terminal wraps them to its own width."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
