"""What a waiting person sees, on standard error and on a terminal only."""

from __future__ import annotations

import sys
from types import TracebackType

STAGES = {
    "mask": "finding the mask",
    "encode": "encoding the picture",
    "decode": "painting",
}


class Progress:
    """One line: what is done just now, a bar, and the time left."""

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
            disable=quiet or not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=None, count="")

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def stage(self, text: str) -> None:
        """Something of unknown length begins."""
        self._bar.update(self._task, description=text, total=None, count="")

    def rows(self, stage: str, done: int, total: int) -> None:
        """A pipeline's callback: network rows answered and in all. Safe from any thread."""
        text, count = STAGES.get(stage, stage), f"{done}/{total}"
        self._bar.update(
            self._task, description=text, completed=done, total=total or None, count=count
        )
