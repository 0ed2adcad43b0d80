"""The events of a build, as plain data for a progress display."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Step = Literal[
    "convert", "target", "forecast", "wait", "torch", "export", "verify", "compile", "kept", "note"
]


@dataclass(frozen=True)
class Event:
    """One event.

    Attributes:
        step: the step; "convert" converts a single file, "kept" means that the file is current.
        label: the network and size, or "" for an event of the whole build.
        state: "start" or "done".
        text: text for the user; may be empty.
        seconds, size, peak_bytes: of a finished step; `size` is the bytes of the written files.
    """

    step: Step
    label: str = ""
    state: Literal["start", "done"] = "done"
    text: str = ""
    seconds: float = 0.0
    size: int = 0
    peak_bytes: int = 0
