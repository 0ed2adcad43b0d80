"""The public names of this project, and those that have no docstring."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

import diffedit

BACKEND_NAMES = {
    "engine.backends": (
        *("Backend", "Networks", "DeviceQueue", "Event", "Details", "HostQueue", "HostEvent"),
    ),
    "engine.netspec": ("NetSpec", "TensorSpec"),
}
"""The names that a custom backend needs, by module."""
RESULT_NAMES = {
    "diffedit.result": ("FoundMask",),
    "diffedit.handle": ("EditHandle",),
    "diffedit.provenance": ("Provenance",),
}
"""The return types of the functions of `diffedit`."""
MANIFEST_NAMES = {
    "engine.manifest": ("Manifest", "Entry", "File", "Toolchain", "Check"),
    "engine.model_identity": ("ModelIdentity", "FusedFile"),
}
"""The types in `manifest.json`."""


def public_names() -> dict[str, Any]:
    """Every public class and function, by its full name."""
    modules = {
        "diffedit": tuple(diffedit.__all__),
        **RESULT_NAMES,
        **BACKEND_NAMES,
        **MANIFEST_NAMES,
    }
    return {
        f"{module}.{name}": getattr(importlib.import_module(module), name)
        for module, names in modules.items()
        for name in names
    }


def without_docstring() -> list[str]:
    """The public names, and public methods and properties of public classes, without docstring.

    Fields of dataclasses are described in the docstring of their class.
    """
    bare = [name for name, thing in _documented(public_names()) if not _docstring(thing)]
    return bare + _undescribed_fields()


def _documented(names: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, thing in names.items():
        yield name, thing
        if inspect.isclass(thing):
            for member, value in vars(thing).items():
                value = getattr(value, "__func__", value)
                if not member.startswith("_") and isinstance(value, _KINDS):
                    yield f"{name}.{member}", value


def _docstring(thing: Any) -> str:
    """The docstring; "" if there is none, or only the signature that `dataclass` writes."""
    text = inspect.getdoc(thing) or ""
    return "" if inspect.isclass(thing) and text.startswith(f"{thing.__name__}(") else text


def _undescribed_fields() -> list[str]:
    """The fields of public dataclasses that the docstring of their class does not describe.

    Each field needs a line of its own: the site shows "loras, embeddings: ..." as one wrong name.
    """
    return [
        f"{name}.{field.name}"
        for name, thing in public_names().items()
        if dataclasses.is_dataclass(thing)
        for field in dataclasses.fields(thing)
        if not field.name.startswith("_")
        and not re.search(rf"^ *{field.name}: ", thing.__doc__ or "", re.MULTILINE)
    ]


_KINDS = (property, type(public_names))
