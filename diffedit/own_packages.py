"""Import this project's `engine` and `export`, even if another package has that name.

A user's project may have its own `engine` package earlier on `sys.path`. This module uses the
standard library only, because it runs before `engine` can be imported.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import warnings
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent


def claim(name: str, root: Path = ROOT) -> None:
    """Make `import NAME` mean the package in `root`, with a warning if another one is first.

    Raises:
        ImportError: another module of this name is imported already. It cannot be replaced, because
            other modules refer to it.
    """
    own = PathFinder.find_spec(name, [str(root)])
    if own is None or own.origin is None:  # not installed as files
        return
    imported = sys.modules.get(name)
    if imported is not None:
        if not _is_same(_file_of(imported), own.origin):
            raise ImportError(
                f"diffedit-trt needs its own package {name!r}, but {_file_of(imported)} of the "
                "same name is imported already; rename that one, or run the edits in a process "
                f"that does not import it. Both cannot be imported under the name {name!r}."
            )
        return
    other = _foreign(name, own)
    if other is not None:
        _load(own)
        warnings.warn(
            f"{other} has the name of a package of diffedit-trt: in this process, `import {name}` "
            f"gives {own.origin}. Rename yours, or run from another folder, if you need it.",
            RuntimeWarning,
            stacklevel=3,
        )


def warn_of_shadow(name: str, root: Path = ROOT) -> None:
    """Warn if another package of this name is earlier on `sys.path`, and leave it there."""
    own = PathFinder.find_spec(name, [str(root)])
    if own is None or own.origin is None or name in sys.modules:
        return
    other = _foreign(name, own)
    if other is not None:
        warnings.warn(
            f"{other} has the name of a package of diffedit-trt. Only `diffedit-trt build` needs "
            "that package, and uses it instead of yours; rename yours if you need both.",
            RuntimeWarning,
            stacklevel=3,
        )


def _foreign(name: str, own: ModuleSpec) -> str | None:
    """Return the file of another module of this name that is earlier on `sys.path`, or None."""
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None or _is_same(found.origin, own.origin):
        return None
    return found.origin


def _load(spec: ModuleSpec) -> None:
    """Import a package by its spec; its modules are then found in its own folder."""
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise


def _file_of(module: ModuleType) -> str:
    """Return the file of a module, or the folder of a package without one."""
    file = getattr(module, "__file__", None)
    return file or next(iter(getattr(module, "__path__", [])), module.__name__)


def _is_same(file: str, other: str | None) -> bool:
    return other is not None and os.path.realpath(file) == os.path.realpath(other)
