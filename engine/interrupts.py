"""Exit codes after Ctrl-C. Standard library only."""

from __future__ import annotations


def forget_interrupt() -> None:
    """Make CPython forget a KeyboardInterrupt that was caught.

    If one passes through `exec()` of a string, which libraries use to generate code, CPython marks
    it as unhandled even when it is caught later. A program started by `python -m` then ends by
    SIGINT instead of with its exit code. Running any other string clears the mark.
    """
    exec("")
