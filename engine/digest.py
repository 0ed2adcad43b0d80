"""sha256 of files. Standard library only."""

from __future__ import annotations

import hashlib
from pathlib import Path

_digests: dict[tuple[str, int, int, int, int], str] = {}


def file_digest(path: Path, *, trust_cache: bool = True) -> str:
    """sha256 of a file.

    A checkpoint's file is read once per process while its size, times and inode stay the same. (A
    copy with the same modification time, as by `cp -p` or `rsync`, has another inode.) Compiled
    files are always read (`trust_cache=False`).
    """
    stat = path.stat()
    times = stat.st_mtime_ns, stat.st_ctime_ns
    key = (str(path.resolve()), stat.st_size, *times, stat.st_ino)
    if not (trust_cache and key in _digests):
        with path.open("rb") as file:
            _digests[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _digests[key]
