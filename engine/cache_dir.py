"""Where files that can be made anew are kept between processes."""

from __future__ import annotations

import os
from pathlib import Path


def user_cache() -> Path:
    """This user's folder for them: ~/.cache/diffedit-trt, or under XDG_CACHE_HOME.

    Some of what lies there is run as code, so it must not be where others may write.
    """
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "diffedit-trt"
