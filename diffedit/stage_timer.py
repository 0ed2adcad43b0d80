"""Measure the stages of an edit: wall time on a CPU, events in the stream on a GPU (no sync)."""

from __future__ import annotations

import time
from typing import Any

import torch


class StageTimer:
    """Seconds per stage of one edit. It starts when it is made."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._began = time.perf_counter()
        self._marks: list[tuple[str, Any]] = []

    @property
    def stage(self) -> str:
        """The current stage; "" before the first one."""
        return self._marks[-1][0] if self._marks else ""

    def start(self, stage: str) -> None:
        """A stage begins, and the one before it ends."""
        mark: Any = time.perf_counter()
        if self._cuda:
            mark = torch.cuda.Event(enable_timing=True)
            mark.record()
        self._marks.append((stage, mark))

    def seconds(self) -> dict[str, float]:
        """Seconds per stage and "total". Call it after the results were read from the device."""
        now: Any = time.perf_counter()
        total = now - self._began
        if self._cuda:
            now = torch.cuda.Event(enable_timing=True)
            now.record()
            now.synchronize()
        ends = [mark for _, mark in self._marks[1:]] + [now]
        spans = {
            stage: begin.elapsed_time(end) / 1e3 if self._cuda else end - begin
            for (stage, begin), end in zip(self._marks, ends, strict=True)
        }
        return {**spans, "total": total}
