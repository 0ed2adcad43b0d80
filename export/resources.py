"""Measure the duration and the peak memory of a step."""

from __future__ import annotations

import contextlib
import resource
import time
from pathlib import Path
from types import TracebackType

_SELF = Path("/proc/self")


class ResourceMeter:
    """A context manager; `seconds` and `peak_bytes` are set at its end.

    On Linux a process can reset its high-water mark, so the peak is that of the step. On other
    systems it is the largest since the process began.
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
    """The largest resident memory of this program since its start, or since the meter's, in bytes.

    The portable counter is the fall-back, because in a child process it includes the parent's.
    """
    return _field(_SELF / "status", "VmHWM") or (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )


def amount(size: float) -> str:
    """Bytes for people, such as "3.2 MB"."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _field(path: Path, name: str) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return next((int(x.split()[1]) * 1024 for x in lines if x.startswith(name + ":")), 0)
