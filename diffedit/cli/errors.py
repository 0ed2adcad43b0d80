"""From an exception to one sentence on standard error and an exit code, in one place."""

from __future__ import annotations

import json
import sys
import traceback

from diffedit.request import InvalidRequest
from engine.errors import (
    BuildError,
    Cancelled,
    CheckpointError,
    DiffEditError,
    EngineMismatch,
    NonFiniteError,
    out_of_memory,
)

EXIT_CODES = {
    0: "done",
    1: "unexpected, or doctor found a problem",
    2: "bad input or usage",
    3: "the model cannot be used",
    4: "the engines cannot be used or built",
    5: "no disk space, no memory, or a file that cannot be written",
    6: "a network gave values that are not finite",
    130: "interrupted (143 by SIGTERM)",
}


class UsageError(InvalidRequest):
    """Options that contradict each other or name what is not there."""


class OutputError(DiffEditError):
    """A file cannot be written where it was wanted."""


CODE_OF: dict[type[BaseException], int] = {
    InvalidRequest: 2,
    CheckpointError: 3,
    EngineMismatch: 4,
    BuildError: 4,
    OutputError: 5,
    NonFiniteError: 6,
    Cancelled: 130,
    DiffEditError: 2,
    KeyboardInterrupt: 130,
    MemoryError: 5,
    OSError: 5,
}


def code_of(error: BaseException) -> int:
    """The exit code that an exception stands for."""
    if out_of_memory(error):
        return 5
    return next((code for kind, code in CODE_OF.items() if isinstance(error, kind)), 1)


def sentence(error: BaseException) -> str:
    """What a user should read of an exception."""
    if isinstance(error, DiffEditError):
        return str(error)
    if out_of_memory(error):
        return (
            "The memory does not suffice for this model at this size; take a smaller --size, a "
            "narrower --dtype, or close other programs."
        )
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}; check the path, its access and the free space."
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; no file was left half-written."
    return f"{type(error).__name__}: {error}"


def exit_code(error: BaseException, *, as_json: bool = False) -> int:
    """Say what went wrong on standard error (and as a json line where asked); returns the code.

    What nobody foresaw keeps its stack trace: it belongs into a bug report.
    """
    code = code_of(error)
    if code == 1:
        traceback.print_exception(error)
        say("This is a bug in diffedit-trt; please report it with the lines above.")
    else:
        say(sentence(error))
    if as_json:
        print(json.dumps({"error": as_dict(error)}), flush=True)  # noqa: T201
    return code


def as_dict(error: BaseException) -> dict[str, object]:
    """An error as machines read it."""
    return {"type": type(error).__name__, "message": sentence(error), "exit_code": code_of(error)}


def say(text: str) -> None:
    """One line for people."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201
