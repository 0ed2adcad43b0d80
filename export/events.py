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
        step: the step; "convert" is of a single file, "kept" means that there was nothing to do.
        label: the network and size, or "" if the event concerns the whole build.
        state: "start" or "done".
        text: a sentence or a few words for people; may be empty.
        seconds, size, peak_bytes: of a finished step; `size` is that of the written files.
    """

    step: Step
    label: str = ""
    state: Literal["start", "done"] = "done"
    text: str = ""
    seconds: float = 0.0
    size: int = 0
    peak_bytes: int = 0
