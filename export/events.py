"""What a build tells those who watch it. Plain data: who shows it, and how, is theirs to decide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Step = Literal["target", "wait", "torch", "export", "verify", "compile", "kept", "note"]


@dataclass(frozen=True)
class Event:
    """One thing that happened, for a progress display.

    Attributes:
        step: what it is about; "kept" means that nothing had to be done.
        label: the network and size, or "" where it concerns the whole build.
        state: "start" or "done".
        text: a sentence or a few words for people; may be empty.
        seconds, size, peak_bytes: of a step that is done; size is that of the files written.
    """

    step: Step
    label: str = ""
    state: Literal["start", "done"] = "done"
    text: str = ""
    seconds: float = 0.0
    size: int = 0
    peak_bytes: int = 0
