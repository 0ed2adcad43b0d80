"""`EditRequest`: the options of one edit, and the only code that checks their ranges.

It does not open pictures: `diffedit.imaging.decode` does, and raises the same `InvalidRequest`.
It imports neither torch, numpy nor PIL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, get_args

from diffedit import checks
from diffedit.checks import InvalidRequest as InvalidRequest
from diffedit.checks import Range, named_fields, short_repr, unknown
from diffedit.chordedit_options import REFINING_LEVELS
from diffedit.method_options import check_options, has_option
from diffedit.presets import (
    DECIDED,
    DEFAULT_PRESET,
    FROM_PRESET,
    PRESET_NAMES,
    PRESETS,
    PresetName,
    default_text,
)
from diffedit.several_edits import MAX_TEXT as MAX_TEXT
from diffedit.several_edits import Edit, EditSource, check_edits, checked_edits
from diffedit.visible_text import without_blanks

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from diffedit.imaging.mask_reader import EditMask
    from diffedit.imaging.photograph import Photograph

    ImageSource: TypeAlias = Image | str | Path | bytes | NDArray[np.uint8]
    """A picture: PIL image, path, contents of a file, or uint8 [H, W, 3]."""
    PhotoSource: TypeAlias = ImageSource | Photograph
    """A photograph: as a picture, or one that was read."""
    MaskSource: TypeAlias = ImageSource | EditMask | NDArray[Any]
    """A mask: as a picture, an array of any number type, or a mask that was read."""

Method = Literal["diffedit", "encode-decode", "masked-sdedit", "sdedit", "flowedit", "chordedit"]
METHODS: tuple[str, ...] = get_args(Method)
MaskCleaning = Literal["clean", "edges", "none"]
CLEANINGS: tuple[str, ...] = get_args(MaskCleaning)
MASKED_METHODS = ("diffedit", "masked-sdedit", "flowedit", "chordedit")
"""The methods that use a mask and therefore accept `mask_image`."""
FOCUSED_METHODS = ("diffedit", "masked-sdedit", "flowedit")
"""The methods that can edit a window around the mask."""
Focus = Literal["auto"] | bool


RANGES: dict[str, Range] = {
    "num_inference_steps": Range(1, 1000, whole=True),
    "strength": Range(0, 1, above=True),
    "guidance_scale": Range(0, 100),
    "num_maps_per_mask": Range(1, 64, whole=True),
    "mask_encode_strength": Range(0, 1, above=True),
    "mask_thresholding_ratio": Range(0, 100, above=True),
    "mask_tolerance": Range(0, 1),
    "mask_threshold": Range(0, 0.99),
    "mask_dilation": Range(0, 64, whole=True),
    "mask_feather": Range(0, 0.25),
    "inversion_stride": Range(1, 1000, whole=True),
    "n_max": Range(1, 1000, whole=True),
    "n_min": Range(0, 999, whole=True),
    "n_avg": Range(1, 64, whole=True),
    "source_guidance_scale": Range(0, 100),
    "step_scale": Range(0, 10, above=True),
    "refining_rows": Range(0, len(REFINING_LEVELS) - 1, whole=True),
    "context_factor": Range(1, 8),
    "seed": Range(0, 2**63 - 1, whole=True),
}
"""Range of every numeric option."""


@named_fields
@dataclass(frozen=True, eq=False)
class EditRequest:
    """The options of one edit. Symbols are those of the DiffEdit paper.

    Numbers may be Python's or numpy's and are stored as Python's; bool is not a number. If an
    option is None, the preset or the model family decides its value: see `diffedit.presets`.

    Attributes:
        image: x_0, the photograph: PIL image, path, contents of a file, or uint8 [H, W, 3].
        prompt: Q, what the result should show. 1 to 4096 characters, not blank; required without
            `edits`. Control characters are refused in every text (`diffedit.visible_text`).
        source_prompt: R, what the photograph shows. Up to 4096 characters. Default "": the
            unconditional text.
        negative_prompt: what guidance moves away from while decoding. Up to 4096 characters.
            Default "".
        num_inference_steps: N, number of steps in the schedule. 1 to 1000; by default the model
            family's, 50 for Stable Diffusion 1 and 2, or a share of it: 0.4 for the preset
            "balanced", 0.2 for "draft".
        strength: r, the encoding ratio: the fraction of the schedule that the photograph is encoded
            to and decoded from. Larger values change more. Above 0, up to 1; by default the
            preset's, 0.8.
        guidance_scale: g, scale of classifier-free guidance while decoding. 0 to 100, where 1 is no
            guidance; by default the model family's, 7.5 for Stable Diffusion 1 and 2.
        guidance_interval: (low, high): only levels i with low < i/N <= high are guided; the others
            take one row without guidance. 0 to 1; by default the preset's, all for "paper".
        inversion_stride: levels of the inversion that share one evaluation of the denoiser. 1 to
            1000; by default the preset's: 1 for "paper", else 3.
        num_maps_per_mask: n, number of noise samples averaged for the mask. 1 to 64; by default the
            preset's: 10 for "paper", 3 for "balanced", 1 for "draft".
        mask_tolerance: stop adding noise samples once the last one has changed at most this share
            of the mask; 0 averages all n. 0 to 1; by default the preset's: 0.1 for "balanced",
            else 0.
        mask_encode_strength: noise level of the mask step, as a fraction of the schedule. Above 0,
            up to 1; by default the preset's, 0.5.
        mask_thresholding_ratio: value at which the difference map is clipped before it is scaled to
            [0, 1], in multiples of its mean. Above 0, up to 100; by default the preset's, 3.0.
        mask_image: M, a mask to use instead of the computed one: white pixels are edited, grey ones
            in part. In a photograph with a hole, the transparent pixels are edited; see
            `diffedit.imaging.mask_reader`. Any size with the photograph's aspect ratio; methods
            "diffedit", "masked-sdedit", "flowedit" and "chordedit" only. Default None.
        mask_threshold: value of the heatmap above which a cell is edited. 0 to 0.99; default 0.5.
        mask_cleaning: "none": the computed mask as in the paper. "clean": blurred, without holes
            and specks. "edges": cleaned, and its border follows the edges of the picture instead of
            the latent grid. By default the preset's: "none" for "paper", else "edges".
        mask_dilation: latent pixels by which the computed mask is enlarged. 0 to 64; default 0.
        mask_feather: width over which the edit fades out, inwards from the mask's outline, as a
            share of the photograph's longer side. 0 to 0.25; default 1/256.
        method: "diffedit" (mask, DDIM inversion, masked decoding), "encode-decode" (no mask),
            "masked-sdedit" (random noise instead of inversion), "sdedit" (neither) or "flowedit"
            (FlowEdit inside the mask: no inversion; Stable Diffusion 3 and FLUX.1 only) or
            "chordedit" (one step, for distilled models). By default the preset's, "diffedit".
        composite: keep the photograph's exact pixels outside the mask. Default True.
        focus: edit a window around the mask at the networks' full resolution and put it back, so
            that edits of large photographs are sharp. The mask is still found on the whole
            photograph. "auto" does it where the photograph is larger than the networks' canvas and
            the mask's box has less than 40 % of both sides. A prompt that names things outside
            the window may draw them into it: edit with the found mask and a prompt for the window
            then. Methods "diffedit", "masked-sdedit" and "flowedit", with `composite`. By default
            the preset's, False.
        context_factor: sides of that window, relative to the mask's box. 1 to 8; default 1.5.
        seed: seed of all random noise. 0 to 2**63 - 1; default 0.
        preset: the set of defaults: "paper" (the paper's settings), "balanced" (a quarter of their
            rows, with cleaned masks), "draft" (an eighth) or "instant" (ChordEdit's step in 5
            rows). Default "balanced".
        n_max: FlowEdit's first level, 1 to N; by default the published share of the schedule, or
            N * strength where strength is given.
        n_min: FlowEdit's last level; below it come ordinary steps. 0 to n_max; default 0.
        n_avg: FlowEdit's number of noise samples per step. 1 to 64; default 1.
        source_guidance_scale: FlowEdit's guidance under the source text, where `guidance_scale` is
            that under the prompt. 0 to 100; by default the published one.
        step_scale: ChordEdit's factor on the edit's field. Above 0, up to 10; by default the
            published 1 with distilled models, 1.5 with others.
        refining_rows: ChordEdit's predictions after the step, which sharpen. 0 to 2; default 1.
        edits: several edits in one pass instead of `prompt` and `source_prompt`, each an `Edit`, a
            pair (source, prompt) or "source -> prompt". Each finds its own mask; where masks
            overlap, the earlier edit applies. Up to 16; methods "diffedit" and "masked-sdedit".

    Raises:
        InvalidRequest: an option has the wrong type, is out of range, or contradicts another one.
            The message names the option and its value.

    Examples:
        >>> request = EditRequest("table.jpg", "a green cup", source_prompt="a red cup", seed=7)
        >>> request.pairs
        (('a red cup', 'a green cup'),)
        >>> EditRequest("table.jpg", "a green cup", strength=2)
        Traceback (most recent call last):
        diffedit.checks.InvalidRequest: strength is 2, but must be a number above 0 and at most 1; \
leave it out to use 0.8.
    """

    image: PhotoSource = field(repr=False)
    prompt: str = ""
    source_prompt: str = ""
    negative_prompt: str = ""
    num_inference_steps: int = FROM_PRESET
    strength: float = FROM_PRESET
    guidance_scale: float = FROM_PRESET
    num_maps_per_mask: int = FROM_PRESET
    mask_encode_strength: float = FROM_PRESET
    mask_thresholding_ratio: float = FROM_PRESET
    mask_image: MaskSource | None = field(default=None, repr=False)
    mask_dilation: int = 0
    method: Method = FROM_PRESET
    composite: bool = True
    focus: Focus = FROM_PRESET
    context_factor: float = 1.5
    seed: int = 0
    preset: PresetName = DEFAULT_PRESET
    guidance_interval: tuple[float, float] = FROM_PRESET
    inversion_stride: int = FROM_PRESET
    mask_tolerance: float = FROM_PRESET
    n_max: int = FROM_PRESET
    n_min: int = FROM_PRESET
    n_avg: int = FROM_PRESET
    source_guidance_scale: float = FROM_PRESET
    mask_cleaning: MaskCleaning = FROM_PRESET
    mask_threshold: float = 0.5
    mask_feather: float = 1 / 256
    step_scale: float = FROM_PRESET
    refining_rows: int = FROM_PRESET
    edits: Sequence[EditSource] = ()

    def __post_init__(self) -> None:
        if self.image is None:
            raise InvalidRequest(
                "image is None, but an edit needs a picture; pass a path, a PIL image, or a uint8 "
                "array [H, W, 3]."
            )
        shown = self.prompt
        for name in ("prompt", "source_prompt", "negative_prompt"):
            given = checks.text(name, getattr(self, name), MAX_TEXT)
            object.__setattr__(self, name, without_blanks(given))
        object.__setattr__(self, "edits", checked_edits(self.edits))
        if not self.edits:
            Edit(shown)
        for name in RANGES:
            self._check_number(name)
        object.__setattr__(self, "preset", checks.choice("preset", self.preset, PRESET_NAMES))
        if self.guidance_interval is not None:
            interval = checks.interval("guidance_interval", self.guidance_interval)
            object.__setattr__(self, "guidance_interval", interval)
        composite = checks.flag("composite", self.composite, EditRequest.composite)
        object.__setattr__(self, "composite", composite)
        method: Any = self.method  # None where the preset decides
        method = PRESETS[self.preset].method if method is None else method
        object.__setattr__(self, "method", checks.choice("method", method, METHODS))
        check_options(self)
        if self.mask_cleaning is not None:
            cleaning = checks.choice("mask_cleaning", self.mask_cleaning, CLEANINGS)
            object.__setattr__(self, "mask_cleaning", cleaning)
        self._check_focus()
        if self.mask_image is not None:
            self._check_mask_options()
        if self.edits:
            check_edits(self)

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """(source, prompt) of every edit."""
        if not self.edits:
            return ((self.source_prompt, self.prompt),)
        edits = cast("Sequence[Edit]", self.edits)
        return tuple((edit.source_prompt, edit.prompt) for edit in edits)

    def _check_focus(self) -> None:
        value: object = self.focus
        if value is None or (isinstance(value, str) and value == "auto"):
            return
        if isinstance(value, str):
            raise InvalidRequest(
                f"focus is {short_repr(value)}, but must be 'auto', True or False; leave it out to "
                f"use {default_text('focus')}."
            )
        focus = checks.flag("focus", value, False)
        object.__setattr__(self, "focus", focus)
        method: object = self.method
        if focus and method is not None and method not in FOCUSED_METHODS:
            raise InvalidRequest(
                f"focus is True, but method is {method!r}, which has no window; leave out "
                f"focus or use method={' or '.join(map(repr, FOCUSED_METHODS))}."
            )
        if focus and not self.composite:
            raise InvalidRequest(
                "focus is True and composite is False, but focus repaints a window only, and the "
                "rest can only come from the photograph; leave out one of them."
            )

    def _check_number(self, name: str) -> None:
        value, decided = getattr(self, name), name in DECIDED
        if value is None and decided:
            return
        default = default_text(name) if decided else _FIELDS[name].default
        object.__setattr__(self, name, checks.number(name, value, RANGES[name], default))

    def _check_mask_options(self) -> None:
        if self.method not in MASKED_METHODS:
            raise InvalidRequest(
                f"mask_image is given, but method is {self.method!r}, which has no mask; leave out "
                f"mask_image or use method={' or '.join(map(repr, MASKED_METHODS))}."
            )
        if self.mask_dilation:
            raise InvalidRequest(
                f"mask_dilation is {self.mask_dilation}, but it applies to computed masks only and "
                "mask_image is given; leave out one of them, or enlarge that mask itself."
            )
        if self.mask_threshold != EditRequest.mask_threshold:
            raise InvalidRequest(
                f"mask_threshold is {self.mask_threshold:g}, but it applies to computed masks only "
                "and mask_image is given; leave out one of them."
            )

    @classmethod
    def from_parameters(
        cls,
        image: PhotoSource,
        params: Mapping[str, Any],
        mask_image: MaskSource | None = None,
    ) -> EditRequest:
        """Return the request with the options of `parameters`, for a given picture.

        Args:
            image: the photograph.
            params: options by name; missing ones take their defaults.
            mask_image: the mask, which `params` cannot contain.

        Raises:
            InvalidRequest: an unknown option, a missing prompt, or an invalid value.
        """
        if not isinstance(params, Mapping):
            raise InvalidRequest(
                f"The parameters are {short_repr(params)}, but must be a mapping of names to "
                "values; pass the result of parameters(request)."
            )
        for name in params:
            if name not in PARAMETERS:
                raise unknown("parameter", name, PARAMETERS)
        if "prompt" not in params and not params.get("edits"):
            raise InvalidRequest(
                "The parameters contain no prompt, but it describes the edited picture; add one."
            )
        return cls(image, mask_image=mask_image, **params)


def parameters(request: EditRequest) -> dict[str, Any]:
    """Return every option of the request's method except the two pictures, as a dict that JSON can
    represent exactly. `edits` is left out if it is empty."""
    values = {name: getattr(request, name) for name in PARAMETERS}
    found = {
        name: [*one] if isinstance(one, tuple) else one
        for name, one in values.items()
        if one is not None or has_option(request.method, name)
    }
    edits = found.pop("edits")
    return found | ({"edits": [asdict(edit) for edit in edits]} if edits else {})


_FIELDS: dict[str, Field[Any]] = {f.name: f for f in fields(EditRequest)}
PARAMETERS = tuple(name for name in _FIELDS if name not in ("image", "mask_image"))
"""Names of the options that `parameters` returns, in the order of the constructor."""


assert all(f.default is not MISSING for n, f in _FIELDS.items() if n in RANGES)
