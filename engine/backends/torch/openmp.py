"""One team of OpenMP threads at a time."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import torch

HARD = 2  # omp_pause_hard of OpenMP 5.0: nothing is kept


def release_team() -> bool:
    """End the OpenMP workers that the calling thread has used; whether that could be done.

    PyTorch gives every thread that computes a team of workers of its own. While there are more
    workers than processors, GNU's OpenMP has them sleep between two parallel regions instead of
    waiting actively, and waking them costs some microseconds, hundreds of times in a call. So a
    thread that only loads weights lets its workers go, and the one that runs the networks has the
    processors to itself. They come back when they are needed again.
    """
    for library in (*_brought(), "libgomp.so.1"):
        try:
            gomp = ctypes.CDLL(str(library), mode=os.RTLD_NOLOAD | os.RTLD_NOW)
            return int(gomp.omp_pause_resource_all(HARD)) == 0
        except (OSError, AttributeError):
            continue  # not in this process, or another OpenMP
    return False


def _brought() -> list[Path]:
    """The OpenMP libraries that came with PyTorch; some builds give them names of their own."""
    return sorted((Path(torch.__file__).parent / "lib").glob("libgomp*"))
