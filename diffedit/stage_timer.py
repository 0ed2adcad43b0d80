"""Measure the stages of an edit in wall time."""

from __future__ import annotations

import time


class StageTimer:
    """Seconds per stage of one edit. It starts when it is made."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._marks: list[tuple[str, float]] = []

    @property
    def stage(self) -> str:
        """The current stage; "" before the first one."""
        return self._marks[-1][0] if self._marks else ""

    def start(self, stage: str) -> None:
        """A stage begins, and the one before it ends."""
        self._marks.append((stage, time.perf_counter()))

    def stop(self) -> None:
        """The last stage ends."""
        self._ended = time.perf_counter()

    def seconds(self) -> dict[str, float]:
        """Seconds per stage and "total". Call it after `stop`."""
        ends = [mark for _, mark in self._marks[1:]] + [self._ended]
        spans = {stage: end - begin for (stage, begin), end in zip(self._marks, ends, strict=True)}
        return {**spans, "total": self._ended - self._began}
