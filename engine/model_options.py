"""The command-line options for a model's files and additions.

Every command that takes a model has these options.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.derived.additions import Additions
from engine.models.distilling_lora import SCHEDULERS
from engine.option_groups import completing

if TYPE_CHECKING:
    from engine.checkpoint import Checkpoint

PANEL = "Model and backend"


def _option(text: str, *names: str, **settings: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=PANEL, **settings)


Base = Annotated[
    str | None,
    _option(
        "For a single file: folder or Hub id of a checkpoint with the parts that the file lacks, "
        "such as FLUX's text encoders.",
        "--base",
    ),
]
PredictionType = Annotated[
    str | None,
    _option(
        "For a single file: what its U-Net predicts, epsilon or v_prediction.",
        "--prediction-type",
        autocompletion=completing(("epsilon", "v_prediction")),
        show_default="as the file states, or the usual one",
    ),
]
Vae = Annotated[Path | None, _option("Another VAE: a folder or a .safetensors file.", "--vae")]
Embeddings = Annotated[
    list[str] | None,
    _option(
        "Textual inversion (.safetensors), with its token for prompts; repeatable. The default "
        "token is the one in the file, or the file's name.",
        "--embedding",
        metavar="FILE[:TOKEN]",
        show_default=False,
    ),
]
ClipSkip = Annotated[
    int,
    _option("Number of last CLIP layers to skip, beyond the model's own.", "--clip-skip", min=0),
]
Scheduler = Annotated[
    str | None,
    _option(
        "With a LoRA that distils the model to a few steps: lcm, tcd, or trailing (Lightning, "
        "Hyper-SD, Turbo).",
        "--scheduler",
        autocompletion=completing(tuple(SCHEDULERS)),
        show_default="the model's own",
    ),
]
Variant = Annotated[str | None, _option("Variant of the weight files, such as fp16.", "--variant")]
Revision = Annotated[str | None, _option("Branch, tag or commit of a Hub id.", "--revision")]
Loras = Annotated[
    list[str] | None,
    _option(
        "LoRA file to apply, with its scale; repeatable. Engines contain their LoRAs, so they must "
        "have been built with the same ones.",
        "--lora",
        metavar="PATH:SCALE",
        show_default=False,
    ),
]


@dataclass(frozen=True)
class ModelSource:
    """A model's files and additions. Methods raise ValueError."""

    base: Base = None
    prediction_type: PredictionType = None
    vae: Vae = None
    embedding: Embeddings = None
    clip_skip: ClipSkip = 0
    scheduler: Scheduler = None
    lora: Loras = None
    variant: Variant = None
    revision: Revision = None

    @property
    def embeddings(self) -> list[tuple[Path, str | None]]:
        """(file, token) of every textual inversion."""
        from engine.derived.embeddings import parse_embedding

        return [parse_embedding(text) for text in self.embedding or ()]

    @property
    def loras(self) -> list[tuple[Path, float]]:
        """(file, scale) of every LoRA."""
        from engine.lora.file import parse_lora

        return [parse_lora(text) for text in self.lora or ()]

    @property
    def additions(self) -> Additions:
        """The additions with which the model is opened."""
        return Additions(
            self.base,
            self.prediction_type,
            self.vae,
            tuple(self.embeddings),
            self.clip_skip,
            self.scheduler,
        )

    def arguments(self) -> Mapping[str, Any]:
        """The keyword arguments of `DiffEditPipeline.from_pretrained`."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        del plain["embedding"]
        return {**plain, "embeddings": self.embeddings, "lora": self.loras}

    def open(self, model: str, *, local_files_only: bool = False) -> Checkpoint:
        """The checkpoint. Raises CheckpointError as well."""
        from engine.hub import find_checkpoint

        return find_checkpoint(
            model,
            additions=self.additions,
            variant=self.variant,
            revision=self.revision,
            local_files_only=local_files_only,
        )

    @property
    def given(self) -> tuple[str, ...]:
        """The names of the options that were given."""
        names = (field.name for field in fields(self))
        return tuple(
            "--" + name.replace("_", "-")
            for name in names
            if getattr(self, name) != getattr(MODEL_ITSELF, name)
        )


MODEL_ITSELF = ModelSource()
"""A model without additions: the default of the group."""
