"""The user's cache folder, for files that can be created again."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

NAME = "diffedit-trt"


def user_cache() -> Path:
    """Return an existing folder that only this user can write, because its files are run as code.

    It is ~/.cache/diffedit-trt, or diffedit-trt under XDG_CACHE_HOME. If there is no writable home
    folder, it is a folder of this user under the system's folder for temporary files.

    Raises:
        OSError: none of these folders can be written.
    """
    for folder in _candidates():
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:
            continue
        if _is_private(folder):
            return folder
    raise OSError(
        "there is no writable folder: neither the home folder nor one for temporary files"
    )


def readable_caches() -> Iterator[Path]:
    """Yield the caches that may be read: those of this user, including `user_cache()`, and
    read-only ones of the administrator, such as in a container's image.
    """
    for folder in _candidates():
        with contextlib.suppress(OSError):
            state = folder.lstat()
            others = state.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
            if stat.S_ISDIR(state.st_mode) and state.st_uid in (0, os.getuid()) and not others:
                yield folder


def _candidates() -> Iterator[Path]:
    base = os.environ.get("XDG_CACHE_HOME")
    if base and Path(base).is_absolute():  # the standard ignores other paths
        yield Path(base) / NAME
    with contextlib.suppress(RuntimeError):  # neither HOME nor an entry in the list of users
        yield Path.home() / ".cache" / NAME
    try:
        temporary = Path(tempfile.gettempdir())
    except OSError:  # no folder for temporary files is writable
        return
    yield temporary / f"{NAME}-{os.getuid()}"


def _is_private(folder: Path) -> bool:
    """Whether a folder belongs to this user, and this process can write it.

    Removes the write permission of other users.
    """
    try:
        own = folder.lstat().st_uid == folder.stat().st_uid == os.getuid()
        if not own or not folder.is_dir():
            return False
        if folder.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            folder.chmod(0o700)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)
