"""Write an engine folder: one build at a time, no incomplete files, enough disk space."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

from engine.errors import BuildError
from engine.manifest import MANIFEST_NAME, Entry, Manifest
from engine.memory import amount

LOCK_NAME = ".lock"
_TEMPORARY = re.compile(rf"\.build-(\d+)|\.{re.escape(MANIFEST_NAME)}\.(\d+)\.tmp")


class StorageError(BuildError):
    """The folder cannot be written, or the disk is full."""


@contextlib.contextmanager
def storage(out: Path) -> Iterator[None]:
    """Turn OSErrors into a StorageError with one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_room(out) from error
        where = error.filename or out
        raise StorageError(
            f"{where} cannot be written ({error.strerror or error}); choose another --out or "
            "change its permissions."
        ) from error


def no_room(out: Path) -> StorageError:
    """The error for a full disk."""
    return StorageError(
        f"The disk of {out} is full; free some space or choose another --out, and run the same "
        "command again, which continues where it stopped."
    )


def require_room(out: Path, needed: int) -> None:
    """Raise StorageError if the disk of `out` has less than `needed` bytes free."""
    free = shutil.disk_usage(out).free
    if free < needed:
        raise StorageError(
            f"{out} needs about {amount(needed)} and its disk has {amount(free)} free; "
            "free some space, choose another --out, or build fewer sizes at once."
        )


@contextlib.contextmanager
def opened(out: Path, waiting: Callable[[], None]) -> Iterator[Path]:
    """Lock `out`, creating it if necessary, and yield a new temporary folder inside it.

    If another build has the lock, call `waiting` once and wait. Temporary files of dead builds are
    removed at the start, and those of this build at the end. A folder that was created here is
    removed if it stays empty.

    Raises:
        StorageError: the parent folder is missing, or the folder cannot be written.
    """
    if not out.parent.is_dir():
        raise StorageError(f"{out.parent} does not exist; create it first or choose another --out.")
    if out.exists() and not out.is_dir():
        raise StorageError(f"{out} is a file; choose a folder for --out.")
    lock, made = _lock(out, waiting)
    temporary = out / f".build-{os.getpid()}"
    try:
        with storage(out):
            _sweep(out)
            temporary.mkdir()
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if made and [p.name for p in out.iterdir()] == [LOCK_NAME]:
            (out / LOCK_NAME).unlink()
            out.rmdir()
        lock.close()


def move(temporary: Path, out: Path, entry: Entry) -> None:
    """Move the files of `entry` from `temporary` into `out`."""
    with storage(out):
        for file in reversed(entry.files):  # the main file last, because it refers to the others
            os.replace(temporary / file.name, out / file.name)


def beside(temporary: Path, out: Path, entry: Entry) -> Path:
    """Return a folder with the files of `entry`: `temporary` itself, or a new folder inside it."""
    if all((temporary / file.name).exists() for file in entry.files):
        return temporary
    folder = temporary / "check"
    shutil.rmtree(folder, ignore_errors=True)
    with storage(out):
        folder.mkdir()
        for file in entry.files:
            try:
                os.link(out / file.name, folder / file.name)
            except OSError:  # a file system without hard links
                shutil.copyfile(out / file.name, folder / file.name)
    return folder


def save(out: Path, before: Manifest, after: Manifest) -> None:
    """Save `after` and delete the files that only `before` lists."""
    with storage(out):
        after.save(out)
        for name in _names(before.entries) - _names(after.entries):
            if Path(name).name == name:
                (out / name).unlink(missing_ok=True)
                (out / f"{name}.cache").unlink(missing_ok=True)  # its runtime cache


def _names(entries: Iterable[Entry]) -> set[str]:
    return {file.name for entry in entries for file in entry.files}


def _lock(out: Path, waiting: Callable[[], None]) -> tuple[IO[str], bool]:
    """Return the open lock file, and whether `out` was created here.

    The lock is released when the file is closed or the process ends.
    """
    path = out / LOCK_NAME
    while True:
        with storage(out):
            made = not out.exists()
            out.mkdir(exist_ok=True)
            lock = path.open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists() and os.path.samestat(path.stat(), os.fstat(lock.fileno())):
            return lock, made
        lock.close()  # the other build failed and removed its empty folder: create it again


def _sweep(out: Path) -> None:
    for path in out.iterdir():
        match = _TEMPORARY.fullmatch(path.name)
        if not match or _alive(int(match[1] or match[2])):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _alive(pid: int) -> bool:
    if pid == os.getpid():
        return False  # a reused process id: this process has not written anything yet
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
