"""Groups of command-line options: dataclasses whose fields typer turns into options.

A command that takes `options: SomeGroup` gets one option per field of that dataclass, and receives
the parsed values as one object. A field may be a group itself.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any, get_type_hints


def expand_groups(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function whose signature has the fields of every option group as parameters.

    Fields without an annotation for typer are not options and keep their defaults.
    """
    hints = get_type_hints(function, include_extras=True)
    parameters = inspect.signature(function).parameters
    groups = {name: hints[name] for name in parameters if dataclasses.is_dataclass(hints[name])}

    def command(**values: Any) -> Any:
        for name, group in groups.items():
            values[name] = _collected(group, values)
        return function(**values)

    expanded: list[inspect.Parameter] = []
    for name, parameter in parameters.items():
        own = (keyword(name, parameter.default, hints[name]),)
        expanded.extend(_options(groups[name]) if name in groups else own)
    command.__name__, command.__doc__ = function.__name__, function.__doc__
    set_parameters(command, expanded)
    return command


def completing(values: Iterable[str]) -> Callable[[str], list[str]]:
    """Return a completer for typer: the values that begin with the typed text."""

    def complete(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    return complete


def set_parameters(function: Callable[..., Any], parameters: list[inspect.Parameter]) -> None:
    """Set the signature that typer reads."""
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]


def keyword(name: str, default: object, annotation: object) -> inspect.Parameter:
    """A keyword parameter."""
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


def _collected(group: Any, values: dict[str, Any]) -> Any:
    """Build a group from its values, which are removed from `values`."""
    return group(
        **{
            field.name: _collected(hint, values)
            if dataclasses.is_dataclass(hint)
            else values.pop(field.name)
            for field, hint in _fields(group)
        }
    )


def _options(group: Any) -> Iterator[inspect.Parameter]:
    """The fields of a group as keyword parameters, including those of nested groups."""
    for field, hint in _fields(group):
        if dataclasses.is_dataclass(hint):
            yield from _options(hint)
            continue
        none = field.default is dataclasses.MISSING
        yield keyword(field.name, inspect.Parameter.empty if none else field.default, hint)


@functools.cache
def _fields(group: Any) -> tuple[tuple[dataclasses.Field[Any], Any], ...]:
    """The fields that are options or groups, with their annotations."""
    hints = get_type_hints(group, include_extras=True)
    return tuple(
        (field, hints[field.name])
        for field in dataclasses.fields(group)
        if hasattr(hints[field.name], "__metadata__") or dataclasses.is_dataclass(hints[field.name])
    )
