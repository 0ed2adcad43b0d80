"""How many replicas a server has, and what each takes of its machine. It knows nothing of Ray."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace

import torch

from engine.errors import DiffEditError


@dataclass(frozen=True)
class Scaling:
    """How many replicas, and what each takes of its machine.

    Attributes:
        least, most: replicas; Ray keeps to what the load asks for between the two.
        gpus, cpus: each replica's share.
    """

    least: int = 1
    most: int = 1
    gpus: float = 0.0
    cpus: float = 1.0

    @classmethod
    def parse(cls, text: str, *, gpus: float = 0.0, cpus: float = 1.0) -> Scaling:
        """From "2" or "1:4"; DiffEditError where it is neither."""
        found = re.fullmatch(r"([0-9]{1,4})(?::([0-9]{1,4}))?", text)
        least, most = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        if not 1 <= least <= most:
            raise DiffEditError(
                f"replicas is {text!r}, but must be a number such as 2, or least:most as in 1:4."
            )
        return cls(least, most, gpus, cpus)

    @classmethod
    def here(cls, text: str | None, device: str | None) -> Scaling:
        """For this machine: one replica a GPU; without one, its cores shared among them."""
        gpus = 0 if device == "cpu" else torch.cuda.device_count()
        if gpus:
            if device not in (None, "cuda"):
                raise DiffEditError(f"device is {device}, but Ray gives every replica its own GPU.")
            return cls.parse(text or str(gpus), gpus=1.0)
        scale = cls.parse(text or "1")
        share = (os.cpu_count() or 1) / scale.most
        return replace(scale, cpus=float(int(share)) if share >= 1 else share)
