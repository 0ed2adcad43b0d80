"""Measure the stages of an edit in wall time."""

from __future__ import annotations

import time


class StageTimer:
    """Seconds per stage of one edit. The clock starts when the timer is created."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._marks: list[tuple[str, float]] = []

    @property
    def stage(self) -> str:
        """The current stage; "" before the first one."""
        return self._marks[-1][0] if self._marks else ""

    def start(self, stage: str) -> None:
        """Begin a stage, and end the one before it."""
        self._marks.append((stage, time.perf_counter()))

    def stop(self) -> None:
        """End the last stage."""
        self._ended = time.perf_counter()

    def seconds(self) -> dict[str, float]:
        """Seconds per stage and "total". Call it after `stop`."""
        ends = [mark for _, mark in self._marks[1:]] + [self._ended]
        spans = {stage: end - begin for (stage, begin), end in zip(self._marks, ends, strict=True)}
        return {**spans, "total": self._ended - self._began}
