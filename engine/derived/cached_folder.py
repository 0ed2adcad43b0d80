"""Make a folder in the cache once: atomically, by one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from engine.cache_dir import readable_caches, user_cache
from engine.digest import file_digest
from engine.errors import CheckpointError, ResourceError
from engine.load_errors import load_error

VERSION = 1
"""Increase it with every change that affects the contents of folders."""
MODELS, DIGESTS = "models", "digests"
LIST_NAME = "diffedit_files.json"
"""The files of a folder with their sizes. It is written last."""
SPARE = 1.05
"""Disk space that a folder needs, as a multiple of the bytes that are converted."""


def cached_folder(name: str, key: Any, bytes_needed: int, make: Callable[[Path], None]) -> Path:
    """Return the folder for `key`; call `make` if it does not exist or is incomplete.

    Two processes never make the same folder at the same time. If `make` raises, or the process is
    killed, no folder appears. A folder with a missing file, a file of another size or a broken link
    is made again.

    Args:
        name: readable prefix of the folder's name.
        key: everything that the contents depend on; JSON.
        make: writes the contents into an empty folder, `diffedit_origin.json` included.

    Raises ResourceError if the disk is full or no cache can be written.
    """
    digest = hashlib.sha256(json.dumps([VERSION, key], sort_keys=True).encode()).hexdigest()
    plain = re.sub(r"[^\w.-]+", "_", name).strip("._")[:60] or "model"
    name = f"{plain}-{digest[:16]}"
    for cache in readable_caches():
        if _is_whole(cache / MODELS / name):
            return cache / MODELS / name
    folder = _models() / name
    with _writing(folder), _locked(folder.with_name(f".{folder.name}.lock")):
        if not _is_whole(folder):
            _require_room(folder.parent, int(bytes_needed * SPARE))
            _make(folder, make)
    return folder


def known_digest(path: Path) -> str:
    """sha256 of a file, cached between processes while its size and times stay the same."""
    path = path.resolve()
    stat = path.stat()
    state = [str(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
    name = hashlib.sha256(os.fsencode(path)).hexdigest()[:32]
    for cache in readable_caches():
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            data = json.loads((cache / MODELS / DIGESTS / f"{name}.json").read_text())
            if data["state"] == state:
                return str(data["sha256"])
    digest = file_digest(path)
    with contextlib.suppress(OSError, ResourceError):  # without a cache it is only slower
        memory = _models() / DIGESTS / f"{name}.json"
        memory.parent.mkdir(exist_ok=True)
        temporary = memory.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps({"state": state, "sha256": digest}))
        os.replace(temporary, memory)
    return digest


def require_unchanged(path: Path, digest: str) -> None:
    """Raise CheckpointError if the digest of a file has changed since `digest` was computed: a
    conversion takes minutes, and the file may still be downloading."""
    if known_digest(path) != digest:
        raise CheckpointError(
            f"{path} was changed while it was read; wait until it is complete and try again."
        )


def _models() -> Path:
    """The folder of all derived folders."""
    try:
        folder = user_cache() / MODELS
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise ResourceError(
            f"The model must be converted, but no cache can be written ({error}); set "
            "XDG_CACHE_HOME to a writable folder."
        ) from None
    return folder


def _make(folder: Path, make: Callable[[Path], None]) -> None:
    temporary = folder.with_name(f".{folder.name}.tmp")
    for unfinished in (temporary, folder):  # left by a killed process, or changed by hand
        shutil.rmtree(unfinished, ignore_errors=True)
    temporary.mkdir()
    try:
        make(temporary)
        (temporary / LIST_NAME).write_text(json.dumps(_files(temporary), indent=1) + "\n")
        os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _is_whole(folder: Path) -> bool:
    """Whether a folder has all of its original files."""
    try:
        return bool(json.loads((folder / LIST_NAME).read_text()) == _files(folder))
    except (OSError, ValueError):
        return False


def _files(folder: Path) -> dict[str, int | None]:
    """Size of every file in a folder by its relative path; None for a link.

    Raises OSError for a broken link.
    """
    found: dict[str, int | None] = {}
    for root, folders, files in os.walk(folder):
        for path in (Path(root) / name for name in (*folders, *files) if name != LIST_NAME):
            stat = path.stat()
            if path.is_symlink():
                found[str(path.relative_to(folder))] = None
            elif path.is_file():
                found[str(path.relative_to(folder))] = stat.st_size
    return dict(sorted(found.items()))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock. It is also released when the process ends."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise load_error(error, folder) from error


def _require_room(cache: Path, needed: int) -> None:
    free = shutil.disk_usage(cache).free
    if free < needed:
        raise ResourceError(
            f"The conversion needs {needed / 1e9:.1f} GB in {cache}, whose disk has "
            f"{free / 1e9:.1f} GB free; free some space, or set XDG_CACHE_HOME to another disk."
        )
