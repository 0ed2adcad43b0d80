"""The public names of this project, and those that have no docstring."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from typing import Any

import diffedit

BACKEND_NAMES = {
    "engine.backends": (
        *("Backend", "Networks", "DeviceQueue", "Event", "Details", "HostQueue", "HostEvent"),
    ),
    "engine.netspec": ("NetSpec", "TensorSpec"),
}
"""What a custom backend needs, by module."""
RESULT_NAMES = {
    "diffedit.result": ("FoundMask",),
    "diffedit.handle": ("EditHandle",),
    "diffedit.provenance": ("Provenance",),
}
"""What the functions of `diffedit` return."""
MANIFEST_NAMES = {
    "engine.manifest": ("Manifest", "Entry", "File", "Toolchain", "Check"),
    "engine.model_identity": ("ModelIdentity", "FusedFile"),
}
"""What `manifest.json` contains."""


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

    A method that another class of this project documents, or that Python defines, needs none.
    """
    return [name for name, thing in _documented(public_names()) if not inspect.getdoc(thing)]


def _documented(names: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, thing in names.items():
        yield name, thing
        if inspect.isclass(thing):
            for member, value in vars(thing).items():
                value = getattr(value, "__func__", value)
                if not member.startswith("_") and isinstance(value, _KINDS):
                    yield f"{name}.{member}", value


_KINDS = (property, type(public_names))
