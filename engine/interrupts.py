"""Exit codes after Ctrl-C. Standard library only."""

from __future__ import annotations


def forget_interrupt() -> None:
    """Clear CPython's mark of an unhandled KeyboardInterrupt after it was caught.

    If a KeyboardInterrupt passes through `exec()` of a string, which libraries use to generate
    code, CPython marks it as unhandled even if it is caught later. A program started by `python -m`
    then ends by SIGINT instead of with its exit code. Executing any other string clears the mark.
    """
    exec("")
