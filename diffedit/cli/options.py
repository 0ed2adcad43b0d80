"""Every option that more than one command has, declared once.

A group of options is a frozen dataclass; `diffedit.cli.command` turns its fields into options.
Options are named as in the Python API, and some have a short second name.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import typer

import diffedit
from diffedit.cli.errors import UsageError
from diffedit.presets import DECIDED, default_text, preset_help
from diffedit.request import METHODS, RANGES, EditRequest
from engine.model_options import MODEL_ITSELF, PANEL, ModelSource
from engine.netspec import Size, parse_size

PROMPTS = "Prompts"
EDIT = "Edit"
FLOWEDIT = "Only with --method flowedit"
CHORDEDIT = "Only with --method chordedit or --preset instant"
MASK = "Mask"
MODEL = PANEL
OUTPUT = "Output"


def option(panel: str, text: str, *names: str, **settings: Any) -> Any:
    """Return a typer option that `--help` lists under the heading `panel`."""
    return typer.Option(*names, help=text, rich_help_panel=panel, **settings)


def number_option(panel: str, text: str, field: str, *names: str) -> Any:
    """Return the option of a numeric field of `EditRequest`; its help states range and default."""
    shown = {"show_default": default_text(field)} if field in DECIDED else {}
    name = "--" + field.replace("_", "-")
    return option(panel, f"{text}: {RANGES[field]}.", name, *names, **shown)


def default_model(root: Path = Path(diffedit.__file__).parent.parent) -> str:
    """Return the folder of the demo model in a clone; raises UsageError if there is none."""
    demo_model = root / "demo" / "model"
    if (demo_model / "model_index.json").is_file():
        return str(demo_model)
    raise UsageError(
        "No model is given; pass --model (a folder in diffusers format, a .safetensors file or a "
        "Hub id) or set DIFFEDIT_MODEL."
    )


def _model_or_default(value: str | None) -> str:
    return value or default_model()


def _parsed_size(text: str) -> Size:
    try:
        return parse_size(text)
    except ValueError as error:
        raise UsageError(f"--size is wrong: {error}.") from None


def _checked_size(value: str | None) -> str | None:
    if value is not None:
        _parsed_size(value)
    return value


def _parsed_focus(text: str) -> bool | str:
    values: dict[str, bool | str] = {"auto": "auto", "on": True, "off": False}
    if text not in values:
        raise UsageError(f"--focus is {text!r}, but must be auto, on or off.")
    return values[text]


# -- arguments ------------------------------------------------------------------------------------

Image = Annotated[str, typer.Argument(help="The photograph; - reads standard input.")]


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
        "Repeat it; where masks meet, the earlier edit has the cells.",
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
    str, option(EDIT, f"Set of defaults; every option overrides it. {preset_help()}", "--preset")
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


# -- model and backend ----------------------------------------------------------------------------

_MODEL_OPTION = option(
    MODEL,
    "Checkpoint: a folder in diffusers format, a single .safetensors file, or a Hub id.",
    "--model",
    envvar="DIFFEDIT_MODEL",
    show_default="the demo model of a clone",
    callback=_model_or_default,
)
Engines = Annotated[
    Path | None, option(MODEL, "Folder of compiled networks that `build` wrote.", "--engines")
]
Backend = Annotated[str, option(MODEL, "One of auto, torch, onnxruntime, tensorrt.", "--backend")]
DType = Annotated[
    str | None,
    option(
        MODEL,
        "Precision of the torch backend: fp32, bf16 or fp16; for single parts, for example "
        "fp16,text_encoder_3=bf16.",
        "--dtype",
        show_default="the fastest safe one",
    ),
]
Device = Annotated[
    str | None,
    option(MODEL, "cpu, cuda or cuda:N.", "--device", show_default="a GPU if there is one"),
]
NetSize = Annotated[
    str | None,
    option(
        MODEL,
        "Size in pixels at which the networks run; one number for a square.",
        "--size",
        metavar="HxW",
        show_default="chosen for the photograph",
        callback=_checked_size,
    ),
]
OffloadText = Annotated[
    bool,
    option(
        MODEL,
        "torch backend: load text encoders only while they run. Saves memory, costs time for new "
        "texts.",
        "--offload-text",
        show_default=False,
    ),
]
IgnoreMemory = Annotated[
    bool,
    option(
        MODEL,
        "Load the model even if its weights are larger than the free memory.",
        "--ignore-memory",
        show_default=False,
    ),
]
Compile = Annotated[
    bool,
    option(
        MODEL,
        "Compile the networks of the torch backend first. Takes minutes; on a CPU it needs a C++ "
        "compiler.",
        "--compile",
        show_default=False,
    ),
]
Pin = Annotated[
    int | None,
    option(
        MODEL,
        "Fix the batch size, so that results do not depend on other requests in the batch.",
        "--pin-batch-size",
        min=1,
    ),
]


@dataclass(frozen=True)
class ModelOptions:
    """Which model to load, and what runs it. Fields as in `DiffEditPipeline.from_pretrained`."""

    model: Annotated[str, _MODEL_OPTION] = ""
    source: ModelSource = MODEL_ITSELF
    engines: Engines = None
    backend: Backend = "auto"
    dtype: DType = None
    offload_text: OffloadText = False
    ignore_memory: IgnoreMemory = False
    device: Device = None
    size: NetSize = None
    compile: Compile = False
    pin_batch_size: Pin = None

    def pipeline_arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of `DiffEditPipeline.from_pretrained`."""
        size = _parsed_size(self.size) if self.size is not None else None
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        del plain["source"]
        try:
            return {**plain, "size": size, **self.source.arguments()}
        except ValueError as error:
            raise UsageError(f"{error}.") from None


# -- output ---------------------------------------------------------------------------------------

Force = Annotated[bool, option(OUTPUT, "Overwrite existing files.", "--force", show_default=False)]
Json = Annotated[
    bool,
    option(OUTPUT, "Print one line of JSON on standard output.", "--json", show_default=False),
]
Quiet = Annotated[
    bool,
    option(OUTPUT, "Print neither progress nor summary.", "--quiet", "-q", show_default=False),
]


@dataclass(frozen=True)
class OutputOptions:
    """Which files a command writes, and what it prints."""

    out: Annotated[
        str | None, option(OUTPUT, "File to write; - writes standard output.", "--out", "-o")
    ] = None
    heatmap_out: Annotated[
        Path | None,
        option(
            OUTPUT,
            "Also write the heatmap over the photograph, or its values if the name ends in .npy.",
            "--heatmap-out",
        ),
    ] = None
    force: Force = False
    as_json: Json = False
    quiet: Quiet = False


@dataclass(frozen=True)
class EditOutputOptions(OutputOptions):
    """The same, with the files that only an edit writes."""

    mask_out: Annotated[
        Path | None, option(OUTPUT, "Also write the mask, black and white.", "--mask-out")
    ] = None
    blend_out: Annotated[
        Path | None,
        option(
            OUTPUT,
            "Also write the blend mask: how much of the edit each pixel takes.",
            "--blend-out",
        ),
    ] = None
    panel: Annotated[
        Path | None,
        option(OUTPUT, "Also write input, heatmap, mask and result side by side.", "--panel"),
    ] = None


@dataclass(frozen=True)
class RestoreOutputOptions(EditOutputOptions):
    """The same for `restore`, which has neither heatmap nor blend mask."""

    heatmap_out: None = None
    blend_out: None = None
