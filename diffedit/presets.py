"""Presets: sets of defaults for the options of an edit, and the step that fills them in.

An option of `EditRequest` that is None is decided here: by the preset, or by the model family.
`resolve` returns the request without any None, but for options that its method does not have.
Everything after it works on the resolved request, and records store it, so that a replay does not
depend on defaults that change later.

This module knows neither networks nor pictures. Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, get_args

from diffedit.chordedit_options import chordedit_defaults
from diffedit.flowedit_options import flowedit_defaults
from diffedit.method_options import OWNERS, has_option

if TYPE_CHECKING:
    from diffedit.request import EditRequest
    from engine.models.family import Defaults

PresetName = Literal["paper", "balanced", "draft", "instant"]
DEFAULT_PRESET: PresetName = "balanced"
"""On 200 edits it succeeds as often as the paper's settings, with better masks (docs/quality.md).
Benchmarks and tests of the paper's algorithm name "paper"."""
FROM_PRESET: Any = None
"""The value of an option that the preset or the model family decides. Typed as Any, because
`resolve` replaces it before anything calculates with it."""


@dataclass(frozen=True)
class Preset:
    """Defaults that belong together.

    Attributes:
        summary: what it is for, as the end of "NAME: ...".
        steps: `num_inference_steps` as a share of the model family's number. Methods "flowedit"
            and "chordedit" have their published numbers in every preset.
        guided: the share of the decoding that is guided, from its noisiest step on.
        options: option -> value, for every other option that a preset decides.
        method: the method, if the user does not choose one.
    """

    summary: str
    steps: float
    guided: float
    options: Mapping[str, Any]
    method: str = "diffedit"


PAPER: dict[str, Any] = {
    "strength": 0.8,
    "num_maps_per_mask": 10,
    "mask_encode_strength": 0.5,
    "mask_thresholding_ratio": 3.0,
    "mask_tolerance": 0.0,
    "mask_cleaning": "none",
    "inversion_stride": 1,
    "focus": False,
}
"""The options of the paper (sections 3.2 and 4). Another preset states what it changes."""
BALANCED = PAPER | {
    "num_maps_per_mask": 3,
    "mask_tolerance": 0.1,
    "mask_cleaning": "edges",
    "inversion_stride": 3,
}
INSTANT = PAPER | {"num_maps_per_mask": 1, "mask_cleaning": "edges"}
DRAFT = PAPER | {"num_maps_per_mask": 1, "mask_cleaning": "edges", "inversion_stride": 3}
PRESETS: dict[PresetName, Preset] = {
    "paper": Preset("the paper's settings", 1.0, 1.0, PAPER),
    "balanced": Preset("a quarter of the paper's rows, cleaned masks", 0.4, 1 / 3, BALANCED),
    "draft": Preset("an eighth of the paper's rows", 0.2, 5 / 9, DRAFT),
    "instant": Preset(
        "ChordEdit's step in 5 rows, for distilled models", 1.0, 1.0, INSTANT, "chordedit"
    ),
}
PRESET_NAMES: tuple[PresetName, ...] = get_args(PresetName)
FEWEST_STEPS = 10
"""A preset does not go below this number of steps, unless the model family needs fewer."""
BY_MODEL = ("num_inference_steps", "guidance_scale")
"""The options whose defaults depend on the model family."""
DECIDED = (*BY_MODEL, "guidance_interval", *PAPER, "method", *OWNERS)
"""The options of `EditRequest` that may be None."""


def resolve(request: EditRequest, family: Defaults) -> EditRequest:
    """The request with every option set.

    Args:
        request: options that are not None are kept.
        family: the defaults of the model family.
    """
    preset = PRESETS[request.preset]
    steps = max(round(preset.steps * family.steps), min(family.steps, FEWEST_STEPS))
    defaults = {
        **preset.options,
        "num_inference_steps": steps,
        "guidance_scale": family.guidance_scale,
        "inversion_stride": None,  # depends on other options, as guidance_interval
    }
    if request.method == "flowedit":
        defaults |= flowedit_defaults(request, family)
        request = replace(request, strength=FROM_PRESET)  # n_max has taken its place
    if request.method == "chordedit":
        defaults |= chordedit_defaults(request, family)
    if family.guidance == "distilled" and request.guidance_scale == 0:
        defaults["guidance_scale"], request = 1.0, replace(request, guidance_scale=FROM_PRESET)
    if has_option(request.method, "inversion_stride"):
        defaults |= _dependent(request, defaults, preset, family)
    missing = {
        name: value
        for name, value in defaults.items()
        if value is not None and getattr(request, name) is None
    }
    return replace(request, **missing) if missing else request


def _dependent(
    request: EditRequest, defaults: Mapping[str, Any], preset: Preset, family: Defaults
) -> dict[str, Any]:
    """The defaults that depend on other options."""

    def chosen(name: str) -> Any:
        value = getattr(request, name)
        return defaults[name] if value is None else value

    # One row a step has nothing to save outside an interval.
    guided = 1.0 if family.guidance == "embedded" else preset.guided
    longest = max(1, chosen("num_inference_steps") // 3)
    return {
        "inversion_stride": min(preset.options["inversion_stride"], longest),
        "guidance_interval": (round(chosen("strength") * (1 - guided), 6), 1.0),
    }


_SWITCH = {True: "on", False: "off", "auto": "auto"}


def preset_help() -> str:
    """The presets in one sentence: "paper: ...; ..."."""
    return "; ".join(f"{name}: {preset.summary}" for name, preset in PRESETS.items()) + "."


@cache
def default_text(name: str) -> str:
    """Where the default of an option comes from, such as "the preset's: 10"."""
    if name == "num_inference_steps":
        shares = [f"{n} {p.steps:g}" for n, p in PRESETS.items() if p.method == "diffedit"]
        return f"the model's, such as 50, times the preset's share: {', '.join(shares)}"
    if name == "guidance_scale":
        return "the model's, such as 7.5"
    if name == "guidance_interval":
        return "the preset's: paper all levels; the others the noisiest part of the decoding"
    if name in OWNERS:
        return "the published one for the model"
    values = {
        preset: one.method if name == "method" else one.options[name]
        for preset, one in PRESETS.items()
    }
    if name == "focus":
        values = {preset: _SWITCH[value] for preset, value in values.items()}
    if len(set(values.values())) == 1:
        return f"{values[DEFAULT_PRESET]}"
    return "the preset's: " + ", ".join(f"{preset} {value}" for preset, value in values.items())


assert set(PRESETS) == set(PRESET_NAMES)
assert all(preset.options.keys() == PAPER.keys() for preset in PRESETS.values())
