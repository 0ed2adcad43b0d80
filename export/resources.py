"""Measure the duration and the peak memory of a step, and return free memory to the system."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import resource
import time
from pathlib import Path
from types import TracebackType

_SELF = Path("/proc/self")


class ResourceMeter:
    """A context manager; `seconds` and `peak_bytes` are set at its end.

    On Linux a process can reset its peak, so that it is the peak of the step. On other systems it
    is the peak since the process began.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.peak_bytes = 0
        self._start = time.perf_counter()

    def __enter__(self) -> ResourceMeter:
        with contextlib.suppress(OSError):
            (_SELF / "clear_refs").write_text("5")
        self._start = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.seconds = time.perf_counter() - self._start
        self.peak_bytes = peak()


def peak() -> int:
    """Peak resident memory in bytes, since the start of the process or of the meter.

    The portable counter is only the fall-back, because in a child process it includes the parent's
    memory.
    """
    return _field(_SELF / "status", "VmHWM") or (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )


def give_back_memory() -> None:
    """Return freed memory to the system, for the compiler and other processes.

    glibc keeps freed memory that was allocated in small pieces: 6 GB after the export of a network
    of 2.2 B parameters. Other C libraries do not have or need this function.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _field(path: Path, name: str) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return next((int(x.split()[1]) * 1024 for x in lines if x.startswith(name + ":")), 0)
