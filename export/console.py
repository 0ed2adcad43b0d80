"""Show the events of a build in a terminal: a line per finished step, a spinner for the running
step, and a table at the end."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.status import Status
from rich.table import Table

from engine.manifest import Manifest
from engine.memory import amount
from engine.verification import verdict
from export.events import Event

DOING = {
    "convert": "converting",
    "torch": "running in PyTorch",
    "export": "exporting to ONNX",
    "verify": "verifying",
    "compile": "compiling the engine",
    "wait": "waiting",
}
DONE = {"torch": "in torch", "export": "exported", "verify": "verified", "compile": "compiled"}


class Display:
    """A context manager; it returns `show`, which takes events."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Status | None = None
        self.worked = False
        """Whether any step changed the folder."""

    def __enter__(self) -> Callable[[Event], None]:
        return self.show

    def __exit__(self, *reason: object) -> None:
        self._stop()

    def show(self, event: Event) -> None:
        if event.step == "wait" or event.state == "start":
            self._start(event)
            return
        self._stop()
        if event.step in DONE:
            self.worked = True
            size = amount(event.size) if event.size else ""
            self._console.print(
                f"{event.label:<22} {DONE[event.step]:<9} {event.seconds:7.1f} s  {size:>9}  "
                f"peak {amount(event.peak_bytes):>8}  {event.text}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
        elif event.step == "forecast":
            line = f"{event.label:<22} {event.text}" if event.label else event.text
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)
        elif event.step == "kept":
            line = f"{event.label:<22} is up to date: {event.text}"
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)
        else:
            start = f"{event.label}: " if not event.text.startswith(event.label) else ""
            self._console.print(start + event.text, highlight=False, markup=False, soft_wrap=True)

    def _start(self, event: Event) -> None:
        text = " ".join(filter(None, [event.label, DOING[event.step], event.text]))
        if event.step == "wait" or not self._console.is_terminal:
            if event.step == "wait":
                self._console.print(event.text, highlight=False, markup=False, soft_wrap=True)
            return
        if self._status is None:
            self._status = self._console.status(text)
            self._status.start()
        self._status.update(text)

    def _stop(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None


def table(manifest: Manifest) -> Table:
    """Every entry of a manifest: file, size, build time, peak memory, verification."""
    result = Table(box=None, pad_edge=False, header_style="bold")
    result.add_column("file", overflow="fold")
    for name in ("size", "time", "peak", "verified"):
        result.add_column(name, justify="right", no_wrap=True)
    for entry in sorted(manifest.entries, key=lambda e: e.files[0].name):
        result.add_row(
            entry.files[0].name,
            amount(entry.bytes),
            f"{entry.seconds:.1f} s",
            amount(entry.peak_bytes),
            verdict(entry),
        )
    return result
