"""Result files: what was measured, on what, with which settings; written after every benchmark.

A file holds one machine's runs: {"schema", "date", "machine", "runs": [run, ...]}; a run is
{"benchmark", "settings", "model", "result", ...}. It knows nothing of how anything is measured.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from engine.errors import DiffEditError

SCHEMA = 1


class ResultError(DiffEditError):
    """A result file cannot be read, written or compared; one sentence."""


def keep(path: Path, run: dict[str, Any], *, machine: dict[str, Any], date: str) -> None:
    """Add a run to a file, making it if need be; a run of the same benchmark and settings that is
    there already is replaced. Whole or not at all."""
    found: dict[str, Any] = load(path) if path.exists() else {"schema": SCHEMA, "runs": []}
    same = (run["benchmark"], run.get("settings"), run.get("model"))
    runs = [r for r in found["runs"] if (r["benchmark"], r.get("settings"), r.get("model")) != same]
    content = {**found, "date": date, "machine": machine, "runs": [*runs, run]}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(content, indent=1) + "\n")
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise ResultError(f"{path} cannot be written ({error.strerror or error}).") from None


def load(path: Path) -> dict[str, Any]:
    """The content of a result file. Raises ResultError where it is none of this schema."""
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise ResultError(f"{path} cannot be read ({error.strerror or error}).") from None
    except ValueError:
        raise ResultError(f"{path} is no json; name a file that `make bench` wrote.") from None
    if not isinstance(content, dict) or not isinstance(content.get("runs"), list):
        raise ResultError(f"{path} holds no results; name a file that `make bench` wrote.")
    if content.get("schema") != SCHEMA:
        raise ResultError(
            f"{path} has schema {content.get('schema')!r}, and this version reads {SCHEMA}; "
            "measure again with this version."
        )
    return content
