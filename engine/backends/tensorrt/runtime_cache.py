"""The file in which TensorRT for RTX saves the kernels it compiled for this GPU.

The file is next to the engine, or in the user's cache folder if the engine folder is read-only. It
starts with a digest of its content and of the engine, so a damaged file and the file of another
engine are ignored. The digest does not protect against a malicious file; TensorRT checks version,
GPU and driver before it uses one.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from pathlib import Path

from engine.cache_dir import user_cache
from engine.manifest import Entry

log = logging.getLogger(__name__)

DIGEST_BYTES = 32


class RuntimeCacheFile:
    """The runtime cache of one engine on disk.

    Attributes:
        path: the file; it need not exist.
    """

    def __init__(self, entry: Entry, folder: Path) -> None:
        main = entry.files[0]
        self._engine_digest = main.sha256
        self.path = folder / f"{main.name}.cache"
        if not os.access(folder, os.W_OK):
            with contextlib.suppress(OSError):  # no writable folder at all: nothing is saved
                self.path = user_cache() / f"{main.sha256}.cache"
        self._saved_digest = b""

    def load(self) -> bytes | None:
        """Return the saved content, or None if it is absent, damaged or of another engine."""
        try:
            if self.path.is_symlink():
                return None
            data = self.path.read_bytes()
        except OSError:
            return None
        digest, content = data[:DIGEST_BYTES], data[DIGEST_BYTES:]
        if digest != self._digest(content):
            log.info("%s is damaged or of another engine; it is created again", self.path)
            return None
        self._saved_digest = digest
        return content

    def save(self, content: bytes) -> None:
        """Write the file atomically if the content changed.

        A full or read-only disk is logged only: the next process compiles the kernels again.
        """
        digest = self._digest(content)
        if digest == self._saved_digest:
            return
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(digest + content)
            os.replace(temporary, self.path)
            self._saved_digest = digest
        except OSError as error:
            log.info("the runtime cache could not be written to %s (%s)", self.path, error)
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _digest(self, content: bytes) -> bytes:
        return hashlib.sha256(self._engine_digest.encode() + content).digest()
