"""Keep one team of OpenMP worker threads in the process."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import torch

OMP_PAUSE_HARD = 2
"""OpenMP 5.0: free all resources of the workers."""


def release_team() -> bool:
    """End the OpenMP workers of the calling thread; return whether that worked.

    Every thread that computes with PyTorch gets its own team of workers. If there are more workers
    than processors, GNU's OpenMP lets idle workers sleep instead of spin, and waking them takes
    microseconds, hundreds of times per call. A thread that only loads weights therefore ends its
    workers, so that only the engine thread has a team. PyTorch starts workers again when it needs
    them.
    """
    for library in (*_bundled_libraries(), "libgomp.so.1"):
        try:
            gomp = ctypes.CDLL(str(library), mode=os.RTLD_NOLOAD | os.RTLD_NOW)
            return int(gomp.omp_pause_resource_all(OMP_PAUSE_HARD)) == 0
        except (OSError, AttributeError):
            continue  # not loaded in this process, or another OpenMP
    return False


def _bundled_libraries() -> list[Path]:
    """Return the OpenMP libraries installed with PyTorch; some builds rename them."""
    return sorted((Path(torch.__file__).parent / "lib").glob("libgomp*"))
