"""Reload the key file of a running server when it changes, or on SIGHUP.

If the new file is invalid, the old keys stay valid and one error is logged.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from diffedit.server.auth import ApiKeys
from engine.errors import DiffEditError

log = logging.getLogger(__name__)

CHECK_SECONDS = 0.25
"""Interval between two checks of the file."""

Stamp = tuple[int, int, int] | None
"""Time of the last change, inode and size of a file; None if there is no file."""


class KeyFile:
    """The keys of a file. Raises DiffEditError if they cannot be read at first."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = self._seen = _stamp(path)
        self._keys = ApiKeys.read(path)
        self._checked = time.monotonic()

    @property
    def names(self) -> set[str]:
        """The names of the keys."""
        return self._keys.names

    def owner(self, key: str) -> str | None:
        """Return the name of a key, or None if it is unknown."""
        self.refresh()
        return self._keys.owner(key)

    def refresh(self) -> None:
        """Read the file again if it has changed and is no longer being written. It checks at most
        every `CHECK_SECONDS`."""
        now = time.monotonic()
        if now - self._checked < CHECK_SECONDS:
            return
        self._checked = now
        before, self._seen = self._seen, _stamp(self._path)
        if self._seen != self._stamp and self._seen == before:
            self.reload()

    def reload(self) -> None:
        """Read the file again."""
        self._stamp = self._seen = _stamp(self._path)
        before = self._keys.names
        try:
            self._keys = ApiKeys.read(self._path)
        except DiffEditError as error:
            log.error("the API keys were not read again, and the old ones stay: %s", error)
            return
        added, removed = sorted(self.names - before), sorted(before - self.names)
        log.info(
            "API keys read again: %d names, added: %s, removed: %s",
            *(len(self.names), ", ".join(added) or "none", ", ".join(removed) or "none"),
        )


def _stamp(path: Path) -> Stamp:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
