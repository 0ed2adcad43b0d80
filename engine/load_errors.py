"""The true reason why a part of a checkpoint could not be loaded, as an error with one sentence.

Three libraries load weights; their errors share no base and often hide the reason in their causes.
Standard library only.
"""

from __future__ import annotations

import errno
from pathlib import Path

from engine.errors import (
    CheckpointError,
    DiffEditError,
    ResourceError,
    causes,
    first_line,
    out_of_memory,
)


def load_error(error: BaseException, folder: Path | str) -> DiffEditError:
    """What to raise for an error of a library that was loading `folder`.

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
    """The error to raise if memory, disk, permission or a package is the reason; else None."""
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
        if isinstance(e, OSError) and e.errno is not None:
            return _system_error(e, folder)
    return None


def _package(error: ImportError) -> str:
    """Such as "the package accelerate is missing"."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"the package {error.name.split('.')[0]} is missing"
    return f"a package is missing or does not work ({first_line(error)})"


def _system_error(error: OSError, folder: Path | str) -> DiffEditError:
    """An error of the operating system: permissions, missing files, a full disk."""
    path = error.filename if isinstance(error.filename, str) else folder
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceError(f"There is no space left for {path}; free some disk space.")
    if error.errno in (errno.EACCES, errno.EPERM):
        return CheckpointError(
            f"{path} cannot be read: there is no permission; change its permissions or the user."
        )
    if error.errno == errno.ENOENT:
        return CheckpointError(f"{path} does not exist; copy or download the checkpoint again.")
    return CheckpointError(f"{path} cannot be read ({error.strerror}); check the disk and path.")
