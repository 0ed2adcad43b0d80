"""`Check`, one line of the report, and how installed packages are examined."""

from __future__ import annotations

import importlib
import importlib.metadata
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

State = Literal["ok", "missing", "problem"]

TESTED_VERSIONS = {
    "torch": "2.13.0",
    "diffusers": "0.42.1",
    "transformers": "5.23.0",
    "safetensors": "0.8.0",
    "huggingface_hub": "2.4.0",
    "onnx": "1.23.2",
    "onnxscript": "0.7.2",
    "onnxruntime": "1.32.0",
    "polygraphy": "0.53.6",
    "tensorrt_rtx": "1.7.1.116",
}
"""The tested versions. An installed package has no constraints.txt, so they are repeated here;
tests/diffedit/test_doctor.py compares the two."""

INSTALL = "pip install -e '.[{}]' -c constraints.txt"
"""Command that installs an extra."""


@dataclass(frozen=True)
class Check:
    """One line of the report; `dataclasses.asdict` of it is JSON.

    Attributes:
        name: what is checked.
        state: "ok"; "missing" for an optional component that is not installed; "problem" for
            something that must be fixed.
        what: the result in words.
        fix: how to install or fix it; empty if there is nothing to do.
    """

    name: str
    state: State
    what: str
    fix: str = ""


def installed_version(distribution: str) -> str | None:
    """Return the installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def try_import(name: str) -> ModuleType | str:
    """Return the module, or the reason why it cannot be imported."""
    try:
        return importlib.import_module(name)
    except Exception as error:  # a broken package can raise anything
        lines = str(error).strip().splitlines()
        return f"{type(error).__name__}: {lines[0] if lines else ''}"


def with_tested_version(distribution: str, version: str) -> str:
    """Return a version, followed by the tested one if that differs (ignoring local build tags)."""
    tested = TESTED_VERSIONS.get(distribution)
    same = tested is None or version.split("+")[0] == tested
    return version if same else f"{version} (tested with {tested})"
