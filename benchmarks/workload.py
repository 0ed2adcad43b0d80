"""The edit that the speed benchmarks run: one picture, two texts, one checkpoint, its options."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.networks import DENOISER
from benchmarks.schema import Model
from demo.picture import still_life
from diffedit import EditRequest
from engine.checkpoint import Checkpoint
from engine.netspec import Size

SOURCE = "a red ball and a green cube on a wooden table"
PROMPT = "a blue ball and a green cube on a wooden table"


@dataclass(frozen=True)
class Workload:
    """One edit of one checkpoint.

    Attributes:
        model: the checkpoint's folder.
        size: (height, width) of the picture, which the networks run at.
        steps, strength, guidance, maps: as in `EditRequest`.
    """

    model: Path
    size: Size
    steps: int = 50
    strength: float = 0.8
    guidance: float = 7.5
    maps: int = 10

    @classmethod
    def open(cls, model: Path, size: Size | None, **options: Any) -> Workload:
        """At the model's own size by default. Raises CheckpointError for a missing model."""
        native = Checkpoint.open(model).family.native_size
        return cls(model, size or (native, native), **options)

    @property
    def checkpoint(self) -> Checkpoint:
        return Checkpoint.open(self.model)

    @property
    def image(self) -> Image.Image:
        height, width = self.size
        return still_life(width, height)

    def request(self, *, seed: int = 0, prompt: str = PROMPT, **more: Any) -> EditRequest:
        """The request, with `more` fields of EditRequest on top."""
        options: dict[str, Any] = {
            "num_inference_steps": self.steps,
            "strength": self.strength,
            "guidance_scale": self.guidance,
            "num_maps_per_mask": self.maps,
            "seed": seed,
        }
        return EditRequest(self.image, prompt, SOURCE, **{**options, **more})

    def settings(self) -> dict[str, Any]:
        """The settings of a result: everything but the model."""
        found = {key: value for key, value in asdict(self).items() if key != "model"}
        return {**found, "size": list(self.size)}

    def facts(self) -> Model:
        """The model of a result."""
        return model_facts(self.model)


def model_facts(folder: Path) -> Model:
    """The name of a checkpoint and the bytes of its denoiser's weights."""
    weights = Checkpoint.open(folder).weights(DENOISER)
    return Model(folder.name, sum(path.stat().st_size for path in weights))
