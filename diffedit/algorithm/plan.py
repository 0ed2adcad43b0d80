"""`EditPlan`: the stages of one request and the network rows of each.

A plan is computed once from a request and a schedule, before any network runs. The flow follows it;
progress, admission and documentation read it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from diffedit.algorithm.schedule import Schedule
from diffedit.chordedit_options import REFINING_LEVELS, WINDOW
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
    """The network rows and calls of one request.

    Attributes:
        schedule: of the request's number of steps.
        stages: in order; a stage without calls is left out.
        texts: the texts to embed, in one call; equal ones are embedded once.
        noises: noise samples in each call of the mask stage. If there are several calls, the flow
            skips the remaining ones when the mask is stable.
        mask_level: the schedule's level at which the mask is estimated.
        depth: the level to which the photograph is encoded, and from which it is decoded;
            FlowEdit's n_max.
        lowest: FlowEdit's n_min.
        field_levels: ChordEdit's two noise levels, the upper one first.
        refining_levels: ChordEdit's noise levels of the refining rows.
        encodes: whether the trajectory is needed.
        stride: levels that one row of the inversion covers.
        guided: the levels at which decoding is guided.
        decodes_image: whether the VAE decodes the result.
    """

    schedule: Schedule
    stages: tuple[Stage, ...]
    texts: tuple[TextName, ...]
    noises: tuple[int, ...]
    mask_level: int
    depth: int
    encodes: bool
    stride: int
    guided: range
    decodes_image: bool
    lowest: int = 0
    field_levels: tuple[int, ...] = ()
    refining_levels: tuple[int, ...] = ()

    @classmethod
    def for_edit(
        cls,
        request: EditRequest,
        schedule: Schedule,
        known_levels: int = 0,
        *,
        embeds_guidance: bool = False,
    ) -> EditPlan:
        """Plan a whole edit.

        Args:
            request: resolved; see `diffedit.presets.resolve`.
            schedule: the schedule of its number of steps.
            known_levels: cached levels above x_0 of the photograph's trajectory.
            embeds_guidance: the denoiser takes the guidance scale as an input.
        """
        finds_mask = request.method in MASKED_METHODS and request.mask_image is None
        if request.method == "flowedit":
            return cls._for_flowedit(request, schedule, finds_mask, embeds_guidance)
        if request.method == "chordedit":
            return cls._for_chordedit(request, schedule, embeds_guidance)
        encodes = request.method in ENCODING_METHODS
        depth, noises = schedule.level(request.strength), _noises(request)
        guided = _guided_levels(request, schedule.steps, depth)
        texts_of_mask = max(2, len({text for pair in request.pairs for text in pair}))
        targets = len({prompt for _, prompt in request.pairs})
        stages = (
            *(Stage("mask", 1, texts_of_mask * count) for count in noises if finds_mask),
            Stage("encode", _rows_up(depth, known_levels, request) if encodes else 0, 1),
            *_decoding(depth, range(0) if embeds_guidance else guided, targets),
        )
        names: list[TextName] = ["target"] if embeds_guidance else ["target", "negative"]
        names += ["source"] if finds_mask else []
        names += ["empty"] if encodes else []
        return cls(
            schedule=schedule,
            stages=tuple(stage for stage in stages if stage.calls),
            texts=tuple(names),
            noises=noises,
            mask_level=schedule.level(request.mask_encode_strength),
            depth=depth,
            encodes=encodes,
            stride=request.inversion_stride,
            guided=guided,
            decodes_image=True,
        )

    @classmethod
    def _for_flowedit(
        cls, request: EditRequest, schedule: Schedule, finds_mask: bool, embeds_guidance: bool
    ) -> EditPlan:
        """A mask, the direct path, and ordinary steps for the last levels."""

        def rows(scale: float) -> int:
            return 2 if scale != 1 and not embeds_guidance else 1

        source, target = rows(request.source_guidance_scale), rows(request.guidance_scale)
        noises, guided = _noises(request), source + target > 2
        stages = (
            *(Stage("mask", 1, 2 * count) for count in noises if finds_mask),
            Stage("decode", request.n_max - request.n_min, request.n_avg * (source + target)),
            Stage("decode", request.n_min, target),
        )
        return cls(
            schedule=schedule,
            stages=tuple(stage for stage in stages if stage.calls),
            texts=("target", "source", "negative") if guided else ("target", "source"),
            noises=noises,
            mask_level=schedule.level(request.mask_encode_strength),
            depth=request.n_max,
            lowest=request.n_min,
            encodes=False,
            stride=1,
            guided=range(1, request.n_max + 1) if guided else range(0),
            decodes_image=True,
        )

    @classmethod
    def _for_chordedit(
        cls, request: EditRequest, schedule: Schedule, embeds_guidance: bool
    ) -> EditPlan:
        """The field, which is also the mask's signal, and refining rows."""
        refining = tuple(schedule.level(t) for t in REFINING_LEVELS[request.refining_rows])
        guided = request.guidance_scale != 1 and not embeds_guidance and bool(refining)
        stages = (
            Stage("mask", 1, 4 * request.num_maps_per_mask),
            Stage("decode", len(refining), 2 if guided else 1),
        )
        levels = tuple(schedule.level(t) for t in (request.strength, request.strength - WINDOW))
        return cls(
            schedule=schedule,
            stages=tuple(stage for stage in stages if stage.calls),
            texts=("target", "source", "negative") if guided else ("target", "source"),
            noises=(request.num_maps_per_mask,),
            mask_level=levels[0],
            depth=levels[0],
            encodes=False,
            stride=1,
            guided=range(1, levels[0] + 1) if guided else range(0),
            decodes_image=True,
            field_levels=levels,
            refining_levels=refining,
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
        """Plan the inversion only."""
        edit = cls.for_edit(request, schedule)
        encode = Stage("encode", _rows_up(edit.depth, known_levels, request), 1)
        return replace(
            edit,
            stages=(encode,) if encode.calls else (),
            texts=("empty",),
            encodes=True,
            decodes_image=False,
        )

    def trajectory_key(self, image_key: str) -> tuple[str, Schedule, int]:
        """The key of a picture's trajectory in `diffedit.algorithm.cache.Caches`."""
        return image_key, self.schedule, self.stride

    @property
    def rows(self) -> int:
        """Maximum number of denoiser rows: 140 with the paper's settings and 50 steps, 100 if the
        trajectory is cached."""
        return sum(stage.rows for stage in self.stages)

    def distinct_texts(self, request: EditRequest) -> int:
        """Number of distinct texts, which is the rows of the text encoders if none is cached."""
        texts = {
            "target": {prompt for _, prompt in request.pairs},
            "negative": {request.negative_prompt},
            "source": {source for source, _ in request.pairs},
            "empty": {""},
        }
        return len(set().union(*(texts[name] for name in self.texts)))

    def image_encodings(self, request: EditRequest) -> int:
        """Maximum number of rows of the image encoder: focus encodes the photograph for the mask,
        and then the window, if there is one."""
        finds_mask = request.method in MASKED_METHODS and request.mask_image is None
        return 1 + (finds_mask and self.decodes_image and request.focus is not False)

    def has(self, name: StageName) -> bool:
        """Whether a stage calls the denoiser."""
        return any(stage.name == name for stage in self.stages)


def _noises(request: EditRequest) -> tuple[int, ...]:
    """Noises of each call: all in one, or two in the first and one in each further call."""
    n = request.num_maps_per_mask
    return (2,) + (1,) * (n - 2) if request.mask_tolerance and n > 2 else (n,)


def _rows_up(depth: int, known: int, request: EditRequest) -> int:
    """Rows of the inversion above the last cached level. A row covers `inversion_stride` levels,
    counted from level 0, so the last cached level may be inside the levels of a row."""
    stride = request.inversion_stride
    return -(-depth // stride) - known // stride if known < depth else 0


def _guided_levels(request: EditRequest, steps: int, depth: int) -> range:
    """The levels i up to `depth` with i / N in the guidance interval (low, high]."""
    low, high = request.guidance_interval
    inside = [i for i in range(1, depth + 1) if low < i / steps <= high]
    return range(inside[0], inside[-1] + 1) if inside and request.guidance_scale != 1 else range(0)


def _decoding(depth: int, guided: range, targets: int) -> tuple[Stage, ...]:
    """Steps above, inside and below the guided levels. Each has a row per target text; a guided
    step has one more row for the negative text, which all edits share."""
    if not guided:
        return (Stage("decode", depth, targets),)
    above, below = depth - guided[-1], guided[0] - 1
    return (
        Stage("decode", above, targets),
        Stage("decode", len(guided), 1 + targets),
        Stage("decode", below, targets),
    )
