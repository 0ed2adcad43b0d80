"""The number of replicas and the resources of each."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace

import torch

from engine.errors import DiffEditError


@dataclass(frozen=True)
class Scaling:
    """How many replicas to run, and the resources of each.

    Attributes:
        min_replicas, max_replicas: Ray scales with the load between the two.
        gpus, cpus: per replica; may be fractions.
    """

    min_replicas: int = 1
    max_replicas: int = 1
    gpus: float = 0.0
    cpus: float = 1.0

    @classmethod
    def parse(cls, text: str, *, gpus: float = 0.0, cpus: float = 1.0) -> Scaling:
        """Parse "2" or "1:4". Raises DiffEditError for other texts."""
        match = re.fullmatch(r"([0-9]{1,4})(?::([0-9]{1,4}))?", text)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= low <= high:
            raise DiffEditError(
                f"replicas is {text!r}, but must be a number such as 2, or MIN:MAX such as 1:4."
            )
        return cls(low, high, gpus, cpus)

    @classmethod
    def for_this_machine(cls, text: str | None, device: str | None) -> Scaling:
        """Scale for the local machine.

        With GPUs, each replica gets one, and the default is a replica per GPU. Without, the CPU
        cores are divided among the replicas, and the default is one replica.
        """
        gpus = 0 if device == "cpu" else torch.cuda.device_count()
        if gpus:
            if device not in (None, "cuda"):
                raise DiffEditError(
                    f"device is {device}, but Ray assigns a GPU to each replica; leave it out."
                )
            return cls.parse(text or str(gpus), gpus=1.0)
        scaling = cls.parse(text or "1")
        cores = (os.cpu_count() or 1) / scaling.max_replicas
        return replace(scaling, cpus=float(int(cores)) if cores >= 1 else cores)
