"""`EditPlan`: the stages of one request and the network rows of each, computed once.

The flow follows the plan; progress, admission and documentation read it. A plan is made from a
request and a schedule, before any network runs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from diffedit.algorithm.schedule import Schedule
from diffedit.request import MASKED_METHODS, EditRequest

StageName = Literal["mask", "encode", "decode"]
TextName = Literal["target", "negative", "source", "empty"]
ENCODING_METHODS = ("diffedit", "encode-decode")
"""The methods that encode the photograph by DDIM; the others add noise to it."""


@dataclass(frozen=True)
class Stage:
    """One stage: `calls` calls of the denoiser, each with `rows_per_call` rows of this request."""

    name: StageName
    calls: int
    rows_per_call: int

    @property
    def rows(self) -> int:
        """Denoiser rows of the stage."""
        return self.calls * self.rows_per_call


@dataclass(frozen=True)
class EditPlan:
    """What one request needs of the networks.

    Attributes:
        schedule: of the request's number of steps.
        stages: in order; a stage without calls is left out.
        texts: the texts to embed, in one call; equal ones are embedded once.
        mask_level: the schedule's level at which the mask is estimated.
        depth: the level to which the photograph is encoded, and from which it is decoded.
        encodes: whether the trajectory is needed.
        guided: whether decoding needs a row of the negative text at each step.
        decodes_image: whether the VAE decodes the result.
    """

    schedule: Schedule
    stages: tuple[Stage, ...]
    texts: tuple[TextName, ...]
    mask_level: int
    depth: int
    encodes: bool
    guided: bool
    decodes_image: bool

    @classmethod
    def for_edit(
        cls,
        request: EditRequest,
        schedule: Schedule,
        known_levels: int = 0,
        *,
        embeds_guidance: bool = False,
    ) -> EditPlan:
        """The whole edit. `known_levels` levels of the photograph's trajectory are cached;
        `embeds_guidance` is the model family's."""
        finds_mask = request.method in MASKED_METHODS and request.mask_image is None
        encodes = request.method in ENCODING_METHODS
        guided = request.guidance_scale != 1 and not embeds_guidance
        depth = schedule.level(request.strength)
        stages = (
            Stage("mask", 1 if finds_mask else 0, 2 * request.num_maps_per_mask),
            Stage("encode", max(0, depth - known_levels) if encodes else 0, 1),
            Stage("decode", depth, 2 if guided else 1),
        )
        texts: list[TextName] = ["target"] if embeds_guidance else ["target", "negative"]
        texts += ["source"] if finds_mask else []
        texts += ["empty"] if encodes else []
        return cls(
            schedule=schedule,
            stages=tuple(stage for stage in stages if stage.calls),
            texts=tuple(texts),
            mask_level=schedule.level(request.mask_encode_strength),
            depth=depth,
            encodes=encodes,
            guided=guided,
            decodes_image=True,
        )

    @classmethod
    def for_mask(cls, request: EditRequest, schedule: Schedule) -> EditPlan:
        """The mask alone."""
        edit = cls.for_edit(request, schedule)
        return replace(
            edit,
            stages=tuple(stage for stage in edit.stages if stage.name == "mask"),
            texts=tuple(name for name in edit.texts if name in ("target", "source")),
            encodes=False,
            decodes_image=False,
        )

    @classmethod
    def for_inversion(
        cls, request: EditRequest, schedule: Schedule, known_levels: int = 0
    ) -> EditPlan:
        """The trajectory alone."""
        depth = schedule.level(request.strength)
        encode = Stage("encode", max(0, depth - known_levels), 1)
        return cls(
            schedule=schedule,
            stages=(encode,) if encode.calls else (),
            texts=("empty",),
            mask_level=schedule.level(request.mask_encode_strength),
            depth=depth,
            encodes=True,
            guided=False,
            decodes_image=False,
        )

    @property
    def rows(self) -> int:
        """Denoiser rows of all stages: 140 at the defaults, 100 if the trajectory is cached."""
        return sum(stage.rows for stage in self.stages)

    def distinct_texts(self, request: EditRequest) -> int:
        """How many of the texts differ: the rows of the text encoders if none is cached."""
        texts = {
            "target": request.prompt,
            "negative": request.negative_prompt,
            "source": request.source_prompt,
            "empty": "",
        }
        return len({texts[name] for name in self.texts})

    def has(self, name: StageName) -> bool:
        """Whether a stage calls the denoiser."""
        return any(stage.name == name for stage in self.stages)
