"""The folder for files that can be made again, kept between processes."""

from __future__ import annotations

import os
from pathlib import Path


def user_cache() -> Path:
    """~/.cache/diffedit-trt, or the same under XDG_CACHE_HOME.

    Some of these files are run as code, so no other user may write there.
    """
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "diffedit-trt"
