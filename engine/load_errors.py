"""Convert the error of a library that loads weights to an error of this project with the reason.

Three libraries load weights; their errors have no common base class, and the reason is often in
their causes. Standard library only.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from engine.errors import (
    CheckpointError,
    DiffEditError,
    ResourceError,
    causes,
    first_line,
    out_of_memory,
)

OS_ERROR = re.compile(r"\(os error (\d+)\)")
"""The format in which Rust libraries state the number of an operating system error."""


def load_error(error: BaseException, folder: Path | str) -> DiffEditError:
    """Return the exception to raise for a library's error while it loaded `folder`.

    ResourceError if memory or disk space ran out, CheckpointError for everything else.
    """
    if known := known_reason(error, folder):
        return known
    chain = causes(error)
    if any(type(e).__name__ == "SafetensorError" or isinstance(e, UnicodeError) for e in chain):
        return CheckpointError(
            f"The weights of {folder} are damaged ({first_line(error)}); copy or download them "
            "again."
        )
    return CheckpointError(
        f"The weights of {folder} cannot be loaded: {type(error).__name__}: {first_line(error)}."
    )


def known_reason(error: BaseException, folder: Path | str) -> DiffEditError | None:
    """Return the exception if the reason is memory, disk, permission or a package; else None."""
    chain = list(causes(error))
    if any(out_of_memory(e) for e in chain):
        return ResourceError(
            f"There is not enough memory to load {folder}; close other programs, use a smaller "
            "dtype such as fp16 or bf16, or a machine with more memory."
        )
    for e in chain:
        if isinstance(e, ImportError):
            return CheckpointError(
                f"{folder} cannot be loaded because {_package(e)}; install it in this environment."
            )
        if (number := _system_number(e)) is not None:
            return _system_error(e, number, folder)
    return None


def _system_number(error: BaseException) -> int | None:
    """The number of an operating system error, which safetensors states in its text."""
    if isinstance(error, OSError):
        return error.errno
    found = OS_ERROR.search(str(error)) if type(error).__name__ == "SafetensorError" else None
    return int(found[1]) if found else None


def _package(error: ImportError) -> str:
    """Such as "the package accelerate is missing"."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"the package {error.name.split('.')[0]} is missing"
    return f"a package is missing or does not work ({first_line(error)})"


def _system_error(error: BaseException, number: int, folder: Path | str) -> DiffEditError:
    """An error of the operating system: permissions, missing files, a full disk."""
    name = getattr(error, "filename", None)
    path = name if isinstance(name, str) else folder
    if number in (errno.ENOSPC, errno.EDQUOT):
        return ResourceError(f"There is no space left for {path}; free some disk space.")
    if number == errno.EFBIG:
        return ResourceError(
            f"The file that is made from {path} is too large for this disk, or for the limit of "
            "this process (ulimit -f); use another disk, or raise the limit."
        )
    if number in (errno.EACCES, errno.EPERM):
        return CheckpointError(
            f"{path} cannot be read (permission denied); change its permissions or the user."
        )
    if number == errno.ENOENT:
        return CheckpointError(f"{path} does not exist; copy or download the checkpoint again.")
    reason = os.strerror(number)
    return CheckpointError(f"{path} cannot be read ({reason}); check the disk and path.")
