"""Turn an exception into one sentence on standard error and an exit code."""

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
    EngineUnavailable,
    NonFiniteError,
    ResourceError,
    out_of_memory,
)

EXIT_CODES = {
    0: "success",
    1: "unexpected error, or `doctor` found a problem",
    2: "invalid input or options",
    3: "the model cannot be loaded",
    4: "the engines cannot be used or built",
    5: "no disk space, no memory, a file cannot be written, or a port is taken",
    6: "a network returned NaN or infinity",
    130: "interrupted (143 after SIGTERM)",
}


class UsageError(InvalidRequest):
    """Options that contradict each other, or name something that does not exist."""


class OutputError(DiffEditError):
    """An output file cannot be written."""


_EXIT_CODE_OF: dict[type[BaseException], int] = {
    InvalidRequest: 2,
    CheckpointError: 3,
    EngineMismatch: 4,
    BuildError: 4,
    OutputError: 5,
    ResourceError: 5,
    NonFiniteError: 6,
    Cancelled: 130,
    EngineUnavailable: 1,
    MemoryError: 5,
    OSError: 5,
    DiffEditError: 2,
    KeyboardInterrupt: 130,
}


def exit_code_of(error: BaseException) -> int:
    """Return the exit code for an exception; 1 for an unexpected one."""
    if out_of_memory(error):
        return 5
    return next((code for cls, code in _EXIT_CODE_OF.items() if isinstance(error, cls)), 1)


def message_of(error: BaseException) -> str:
    """Return the sentence that a user reads about an exception."""
    if isinstance(error, DiffEditError):
        return str(error)
    if out_of_memory(error):
        return (
            "Out of memory: this model at this size does not fit; use a smaller --size or --dtype "
            "fp16, or close other programs."
        )
    if isinstance(error, OSError):
        prefix = f"{error.filename}: " if error.filename else ""
        reason = error.strerror or error
        return f"{prefix}{reason}; check the path, its permissions and the free disk space."
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    return f"{type(error).__name__}: {error}"


INTERRUPTED = "interrupted; no incomplete file is left."


def report_error(error: BaseException, *, as_json: bool = False) -> int:
    """Print an exception's message on standard error and return its exit code.

    An unexpected exception is printed with its stack trace, for a bug report. With `as_json`, also
    print a line of JSON on standard output.
    """
    code = exit_code_of(error)
    if code == 1:
        traceback.print_exception(error)
        say("This is a bug in diffedit-trt; please report it with the lines above.")
    else:
        say(message_of(error))
    if as_json:
        print(json.dumps({"error": error_fields(error)}), flush=True)  # noqa: T201
    return code


def error_fields(error: BaseException) -> dict[str, object]:
    """Return an exception as JSON fields."""
    return {
        "type": type(error).__name__,
        "message": message_of(error),
        "exit_code": exit_code_of(error),
    }


def say(text: str) -> None:
    """Print one line on standard error."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201
