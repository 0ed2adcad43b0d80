"""The progress bar on standard error, shown in a terminal only."""

from __future__ import annotations

import sys
from types import TracebackType

STAGES = {
    "mask": "computing the mask",
    "encode": "encoding the picture",
    "decode": "decoding the edit",
}
"""Stage of a request -> text of the progress bar."""
SPEED_SECONDS = 900.0
"""Seconds of updates from which the remaining time is estimated. The estimate needs two updates,
and an edit on a CPU takes minutes."""


class Progress:
    """One line with the current stage, a bar, and the remaining time."""

    def __init__(self, *, quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        console = Console(file=sys.stderr)
        self._bar = Bar(
            SpinnerColumn(),
            TextColumn("{task.description:<22}"),
            BarColumn(),
            TextColumn("{task.fields[count]:>9}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            speed_estimate_period=SPEED_SECONDS,
            disable=quiet or not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=None, count="")

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def start_stage(self, text: str) -> None:
        """Show a stage of unknown length."""
        self._bar.update(self._task, description=text, total=None, count="")

    def update(self, stage: str, done: int, total: int) -> None:
        """Show how much of a stage is done. A callback for the pipeline; thread-safe."""
        text, count = STAGES.get(stage, stage), f"{done}/{total}"
        self._bar.update(
            self._task, description=text, completed=done, total=total or None, count=count
        )
