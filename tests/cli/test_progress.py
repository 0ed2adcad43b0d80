"""The progress bar on a terminal states the remaining time, also of edits that take minutes."""

from __future__ import annotations

import io
import sys

import pytest
from rich.progress import ProgressColumn, TimeRemainingColumn

from diffedit.cli.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("seconds", [1.0, 60.0, 300.0])
def test_the_remaining_time_of_slow_edits(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three of ten edits are done, `seconds` each, on a simulated clock."""
    clock = [0.0]
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress(quiet=False) as progress:
        bar = progress._bar
        bar.get_time = lambda: clock[0]
        progress.start_stage("loading the model")
        for done in range(4):
            progress.update("edits", done, 10)
            clock[0] += seconds
        column: ProgressColumn = next(c for c in bar.columns if isinstance(c, TimeRemainingColumn))
        (task,) = bar.tasks
        remaining = task.time_remaining
        assert remaining == pytest.approx(7 * seconds, rel=0.2)
        assert "-:--" not in str(column.render(task))
