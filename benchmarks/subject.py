"""What every speed benchmark edits: one picture, two texts, one model, and the options for them."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from demo.picture import still_life
from diffedit import EditRequest
from engine.checkpoint import Checkpoint
from engine.netspec import Size, parse_size

SOURCE = "a red ball and a green cube on a wooden table"
PROMPT = "a blue ball and a green cube on a wooden table"


@dataclass(frozen=True)
class Subject:
    """One edit of one model.

    Attributes:
        model: a checkpoint's folder.
        size: (height, width) the networks run at.
        steps, strength, guidance, maps: as in `EditRequest`.
    """

    model: Path
    size: Size
    steps: int
    strength: float
    guidance: float
    maps: int

    @classmethod
    def of(cls, args: argparse.Namespace) -> Subject:
        """From parsed arguments; CheckpointError where the model is none."""
        native = Checkpoint.open(args.model).family.native_size
        size = args.size or (native, native)
        return cls(args.model, size, args.steps, args.strength, args.guidance, args.maps)

    @property
    def image(self) -> Image.Image:
        height, width = self.size
        return still_life(width, height)

    def request(self, *, seed: int = 0, prompt: str = PROMPT, **more: Any) -> EditRequest:
        """The edit, with `more` of EditRequest's fields instead of its own."""
        options: dict[str, Any] = {
            "num_inference_steps": self.steps,
            "strength": self.strength,
            "guidance_scale": self.guidance,
            "num_maps_per_mask": self.maps,
            "seed": seed,
        }
        return EditRequest(self.image, prompt, SOURCE, **{**options, **more})

    def settings(self) -> dict[str, Any]:
        """What a comparison must have in common, the model aside."""
        found = asdict(self)
        del found["model"]
        return {**found, "size": list(self.size)}

    def model_facts(self) -> dict[str, Any]:
        """The model by its name and the size of its UNet's weights."""
        weights = Checkpoint.open(self.model).weights("unet")
        return {"name": self.model.name, "unet_bytes": sum(p.stat().st_size for p in weights)}


def add_arguments(parser: argparse.ArgumentParser, *, steps: int = 50) -> None:
    """The options that say what is edited."""
    add = parser.add_argument
    add("--model", type=Path, default=Path("demo/model"), help="a checkpoint (demo/model)")
    add("--size", type=parse_size, help="of the picture, e.g. 512 or 512x768 (the model's own)")
    add("--steps", type=int, default=steps, help=f"N, grid points of the schedule ({steps})")
    add("--strength", type=float, default=0.8, help="encoding ratio (0.8)")
    add("--guidance", type=float, default=7.5, help="guidance scale (7.5)")
    add("--maps", type=int, default=10, help="noises the mask is averaged over (10)")


def whole_numbers(text: str) -> tuple[int, ...]:
    """An option's "1,2,4" as numbers."""
    return tuple(int(part) for part in text.split(","))


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """p50 and p95 of durations, and how many there were."""
    return {
        "p50": round(statistics.median(seconds), 5),
        "p95": round(float(np.percentile(seconds, 95)), 5),
        "count": len(seconds),
    }


def relative_error(found: Any, true: Any) -> float:
    """|found - true| / |true| of two arrays."""
    a, b = np.asarray(found, np.float64), np.asarray(true, np.float64)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def mask_iou(found: Any, true: Any) -> float:
    """Intersection over union of two masks; two empty ones agree."""
    a, b = np.asarray(found, bool), np.asarray(true, bool)
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 1.0
