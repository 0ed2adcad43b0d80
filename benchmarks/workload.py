"""The edit that the speed benchmarks run: one picture, two texts, one checkpoint, its options."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks import options
from benchmarks.schema import Model
from demo.picture import still_life
from diffedit import EditRequest, EditResult
from diffedit.presets import resolve
from engine.checkpoint import Checkpoint
from engine.errors import DiffEditError
from engine.models import Defaults

SOURCE = "a red ball and a green cube on a wooden table"
PROMPT = "a blue ball and a green cube on a wooden table"
NOTHING_FOUND = (
    "The model found nothing to edit, so the edit ended after its mask; choose a lower --threshold."
)


@dataclass(frozen=True)
class Workload:
    """One edit of one checkpoint; a group of options. Raises CheckpointError for a missing model.

    Attributes:
        model: the checkpoint's folder.
        size: (height, width) of the picture, which the networks run at; the model's by default.
        steps, strength, guidance, maps: as in `EditRequest`; the defaults are the paper's.
        threshold: value of the heatmap above which a cell is edited. The differences of a random
            model are noise, of which a mask keeps nothing at 0.5.
    """

    model: options.Model = options.DEMO
    size: options.Size = None
    steps: options.Steps = 50
    strength: options.Strength = 0.8
    guidance: options.Guidance = 7.5
    maps: options.Maps = 10
    threshold: options.Threshold = 0.5

    def __post_init__(self) -> None:
        native = Checkpoint.open(self.model).family.native_size
        object.__setattr__(self, "size", self.size or (native, native))

    @property
    def checkpoint(self) -> Checkpoint:
        return Checkpoint.open(self.model)

    @property
    def image(self) -> Image.Image:
        height, width = self.size
        return still_life(width, height)

    def request(self, *, seed: int = 0, prompt: str = PROMPT, **more: Any) -> EditRequest:
        """The request with the paper's other options, and `more` fields of EditRequest on top."""
        chosen: dict[str, Any] = {
            "num_inference_steps": self.steps,
            "strength": self.strength,
            "guidance_scale": self.guidance,
            "num_maps_per_mask": self.maps,
            "mask_threshold": self.threshold,
            "seed": seed,
            "preset": "paper",
        }
        return EditRequest(self.image, prompt, SOURCE, **{**chosen, **more})

    def balanced(self, *, seed: int = 0) -> EditRequest:
        """The same edit with the preset "balanced", for a model whose steps are `self.steps`."""
        request = EditRequest(
            self.image,
            PROMPT,
            SOURCE,
            strength=self.strength,
            guidance_scale=self.guidance,
            seed=seed,
            preset="balanced",
            mask_threshold=self.threshold,
        )
        return resolve(request, Defaults(self.steps))

    def settings(self) -> dict[str, Any]:
        """The settings of a result: everything but the model."""
        found = {key: value for key, value in asdict(self).items() if key != "model"}
        return {**found, "size": list(self.size)}

    def facts(self) -> Model:
        """The model of a result."""
        return model_facts(self.model)


def whole(result: EditResult) -> EditResult:
    """The result of an edit that ran to its end. Raises DiffEditError if nothing was to be edited:
    such an edit ends after its mask, and its time would be mistaken for that of an edit."""
    if not result.latent_mask.any():
        raise DiffEditError(NOTHING_FOUND)
    return result


def model_facts(folder: Path) -> Model:
    """The name of a checkpoint and the bytes of its denoiser's weights."""
    checkpoint = Checkpoint.open(folder)
    weights = checkpoint.weights(checkpoint.network(checkpoint.names.denoiser).part)
    return Model(folder.name, sum(path.stat().st_size for path in weights))
