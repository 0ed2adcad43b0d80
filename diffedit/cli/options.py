"""The options of an edit and of its mask, declared once for every command that has them.

A group of options is a frozen dataclass; `diffedit.cli.command` turns its fields into options.
Options are named as in the Python API, and some have a short second name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from diffedit.cli.errors import UsageError
from diffedit.presets import DECIDED, PRESETS, default_text, preset_help
from diffedit.request import CLEANINGS, METHODS, RANGES, EditRequest
from engine.option_groups import completing

PROMPTS = "Prompts"
EDIT = "Edit"
FLOWEDIT = "Only with --method flowedit"
CHORDEDIT = "Only with --method chordedit or --preset instant"
MASK = "Mask"
FOCUS: dict[str, bool | str] = {"auto": "auto", "on": True, "off": False}
"""Value of --focus -> value in Python."""


def option(panel: str, text: str, *names: str, **settings: Any) -> Any:
    """Return a typer option that `--help` lists under the heading `panel`."""
    return typer.Option(*names, help=text, rich_help_panel=panel, **settings)


def number_option(panel: str, text: str, field: str, *names: str) -> Any:
    """Return the option of a numeric field of `EditRequest`; its help states range and default."""
    shown = {"show_default": default_text(field)} if field in DECIDED else {}
    name = "--" + field.replace("_", "-")
    return option(panel, f"{text}: {RANGES[field]}.", name, *names, **shown)


def _parsed_focus(text: str) -> bool | str:
    if text not in FOCUS:
        raise UsageError(f"--focus is {text!r}, but must be auto, on or off.")
    return FOCUS[text]


# -- arguments ------------------------------------------------------------------------------------

Image = Annotated[
    str, typer.Argument(metavar="IMAGE", help="The photograph; - reads standard input.")
]


# -- what to edit ---------------------------------------------------------------------------------

Prompt = Annotated[str, option(PROMPTS, "What the result should show.", "--prompt", "-p")]
OptionalPrompt = Annotated[
    str | None, option(PROMPTS, "What the result should show.", "--prompt", "-p")
]
Edits = Annotated[
    list[str] | None,
    option(
        PROMPTS,
        "One of several edits in one pass, instead of --prompt and --source: 'source -> prompt'. "
        "Repeatable; where masks overlap, the earlier edit applies.",
        "--edit",
        metavar="<text>",
    ),
]
Source = Annotated[
    str,
    option(
        PROMPTS,
        "What the photograph shows; improves the mask.",
        "--source",
        "--source-prompt",
        show_default=False,
    ),
]
Negative = Annotated[
    str,
    option(
        PROMPTS,
        "What the result should not show.",
        "--negative",
        "--negative-prompt",
        show_default=False,
    ),
]
Steps = Annotated[
    int | None,
    number_option(EDIT, "Denoising steps in the schedule", "num_inference_steps", "--steps"),
]
Preset = Annotated[
    str,
    option(
        EDIT,
        f"Set of defaults; every option overrides it. {preset_help()}",
        "--preset",
        autocompletion=completing(PRESETS),
    ),
]
Seed = Annotated[int, number_option(EDIT, "Seed of all random noise", "seed")]


@dataclass(frozen=True)
class EditOptions:
    """How strongly, and by which method, the photograph is edited."""

    preset: Preset = EditRequest.preset
    num_inference_steps: Steps = None
    strength: Annotated[
        float | None, number_option(EDIT, "How much the edited region may change", "strength")
    ] = None
    guidance_scale: Annotated[
        float | None,
        number_option(EDIT, "How closely to follow the prompt", "guidance_scale", "--guidance"),
    ] = None
    guidance_interval: Annotated[
        tuple[float, float] | None,
        option(
            EDIT,
            "Guide only at noise levels in this part of the schedule: two numbers from 0 to 1.",
            "--guidance-interval",
            metavar="LOW HIGH",
            show_default=default_text("guidance_interval"),
        ),
    ] = None
    inversion_stride: Annotated[
        int | None,
        number_option(EDIT, "Levels of the inversion that share one row", "inversion_stride"),
    ] = None
    method: Annotated[
        str | None,
        option(
            EDIT,
            f"One of {', '.join(METHODS)}.",
            "--method",
            autocompletion=completing(METHODS),
            show_default=default_text("method"),
        ),
    ] = None
    focus: Annotated[
        str | None,
        option(
            EDIT,
            "Edit a window around the mask at full resolution, for sharp edits of large "
            "photographs: on, off, or auto (where it is larger than the networks' canvas and the "
            "mask is small).",
            "--focus",
            autocompletion=completing(FOCUS),
            show_default=default_text("focus"),
            parser=_parsed_focus,
            metavar="<str>",
        ),
    ] = None
    context_factor: Annotated[
        float,
        number_option(EDIT, "Sides of that window, relative to the mask's box", "context_factor"),
    ] = EditRequest.context_factor
    seed: Seed = EditRequest.seed
    n_max: Annotated[
        int | None, number_option(FLOWEDIT, "Level at which the edit begins", "n_max")
    ] = None
    n_min: Annotated[
        int | None, number_option(FLOWEDIT, "Level below which ordinary steps follow", "n_min")
    ] = None
    n_avg: Annotated[
        int | None, number_option(FLOWEDIT, "Noise samples to average at each step", "n_avg")
    ] = None
    source_guidance_scale: Annotated[
        float | None,
        number_option(
            FLOWEDIT,
            "How closely to follow the source text",
            "source_guidance_scale",
        ),
    ] = None
    step_scale: Annotated[
        float | None, number_option(CHORDEDIT, "Factor on the edit's field", "step_scale")
    ] = None
    refining_rows: Annotated[
        int | None,
        number_option(CHORDEDIT, "Predictions after the step, which sharpen", "refining_rows"),
    ] = None


@dataclass(frozen=True)
class MaskOptions:
    """How the mask is computed."""

    num_maps_per_mask: Annotated[
        int | None, number_option(MASK, "Noise samples to average", "num_maps_per_mask", "--maps")
    ] = None
    mask_encode_strength: Annotated[
        float | None,
        number_option(MASK, "Noise level of the comparison", "mask_encode_strength"),
    ] = None
    mask_thresholding_ratio: Annotated[
        float | None,
        number_option(
            MASK, "Clip the difference map at this multiple of its mean", "mask_thresholding_ratio"
        ),
    ] = None
    mask_tolerance: Annotated[
        float | None,
        number_option(
            MASK,
            "Stop adding noise samples once the last one changes at most this share of the mask",
            "mask_tolerance",
        ),
    ] = None
    mask_threshold: Annotated[
        float, number_option(MASK, "Heatmap value above which a cell is edited", "mask_threshold")
    ] = EditRequest.mask_threshold
    mask_cleaning: Annotated[
        str | None,
        option(
            MASK,
            "none: the mask as in the paper; clean: blurred, without holes and specks; edges: "
            "cleaned, and its border follows the picture.",
            "--mask-cleaning",
            autocompletion=completing(CLEANINGS),
            show_default=default_text("mask_cleaning"),
        ),
    ] = None
    mask_feather: Annotated[
        float,
        number_option(
            MASK, "Width of the fade at the mask's outline, of the longer side", "mask_feather"
        ),
    ] = EditRequest.mask_feather
    mask_dilation: Annotated[
        int, number_option(MASK, "Latent pixels by which the mask is enlarged", "mask_dilation")
    ] = EditRequest.mask_dilation
