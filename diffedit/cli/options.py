"""The options that several commands share, each stated once. Names are those of the Python API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

import diffedit
from diffedit.cli.errors import UsageError
from diffedit.request import METHODS, PARAMETERS, RANGES
from engine.netspec import Size, parse_size

_EDIT, _MASK = "What to edit", "The mask"
_MODEL, _OUT = "Model and backend", "Output"


def _option(panel: str, text: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, show_default=False, **more)


def _number(panel: str, text: str, field: str, *short: str) -> Any:
    default = getattr(diffedit.EditRequest, field)
    words = f"{text}: {RANGES[field]} (default {default})."
    return _option(panel, words, "--" + field.replace("_", "-"), *short)


Image = Annotated[str, typer.Argument(help="The photograph, or - for standard input.")]
EditOutputs = Annotated[Path, typer.Argument(help="A PNG that `edit` wrote.")]
AnyInput = Annotated[
    bool,
    _option(
        _EDIT, "Apply the edit to another picture than the one it was made from.", "--any-input"
    ),
]
Prompt = Annotated[str, _option(_EDIT, "What should be there.", "--prompt", "-p")]
Source = Annotated[
    str, _option(_EDIT, "What is there; it makes the mask better.", "--source", "--source-prompt")
]
Negative = Annotated[
    str, _option(_EDIT, "What to keep away from.", "--negative", "--negative-prompt")
]
Steps = Annotated[int, _number(_EDIT, "Steps of the schedule", "num_inference_steps", "--steps")]
Strength = Annotated[float, _number(_EDIT, "How far the picture may change", "strength")]
Guidance = Annotated[
    float, _number(_EDIT, "How strongly the prompt pulls", "guidance_scale", "--guidance")
]
Method = Annotated[str, _option(_EDIT, f"{', '.join(METHODS)} (default {METHODS[0]}).", "--method")]
Seed = Annotated[int, _number(_EDIT, "Of all noise", "seed")]
Composite = Annotated[
    bool,
    _option(
        _EDIT,
        "Keep the photograph's own pixels outside the mask (default), or the decoder's.",
        "--composite/--no-composite",
    ),
]
Mask = Annotated[
    str | None,
    _option(_MASK, "Use this picture as the mask, white = edit.", "--mask", "--mask-image"),
]
Maps = Annotated[int, _number(_MASK, "Noises it is averaged over", "num_maps_per_mask", "--maps")]
MaskStrength = Annotated[float, _number(_MASK, "Noise it is found at", "mask_encode_strength")]
MaskRatio = Annotated[
    float, _number(_MASK, "Where the map is clipped, in its own means", "mask_thresholding_ratio")
]
Dilation = Annotated[int, _number(_MASK, "Latent pixels it grows by", "mask_dilation")]

Model = Annotated[
    str | None,
    _option(
        _MODEL,
        "A Stable Diffusion 1.x or 2.x checkpoint: a folder in diffusers' format or a hub id.",
        "--model",
        envvar="DIFFEDIT_MODEL",
    ),
]
Variant = Annotated[str | None, _option(_MODEL, "Weight files to take, e.g. fp16.", "--variant")]
Revision = Annotated[
    str | None, _option(_MODEL, "Branch, tag or commit of a hub id.", "--revision")
]
Engines = Annotated[Path | None, _option(_MODEL, "Folder that `build` wrote.", "--engines")]
Backend = Annotated[
    str, _option(_MODEL, "auto (default), torch, onnxruntime or tensorrt.", "--backend")
]
DType = Annotated[
    str | None, _option(_MODEL, "torch: fp32, bf16 or fp16 (default: what suits).", "--dtype")
]
Device = Annotated[str | None, _option(_MODEL, "cpu, cuda or cuda:N.", "--device")]
NetSize = Annotated[
    str | None,
    _option(_MODEL, "HEIGHTxWIDTH the networks see (default: what suits).", "--size"),
]
Compile = Annotated[
    bool,
    _option(
        _MODEL,
        "torch: compile the networks first (minutes; on a CPU with your C++ compiler).",
        "--compile",
    ),
]
Pin = Annotated[
    int | None,
    _option(
        _MODEL,
        "Run every call in this one batch size: results equal to the bit whatever shares it.",
        "--pin-batch-size",
        min=1,
    ),
]

Out = Annotated[
    str | None,
    _option(_OUT, "The file to write, or - for standard output.", "--out", "-o"),
]
MaskOut = Annotated[Path | None, _option(_OUT, "Write the mask, black and white.", "--mask-out")]
HeatmapOut = Annotated[
    Path | None,
    _option(_OUT, "Write the heatmap over the picture; as .npy, its numbers.", "--heatmap-out"),
]
Panel = Annotated[
    Path | None, _option(_OUT, "Write input, heatmap, mask and result in one picture.", "--panel")
]
Force = Annotated[bool, _option(_OUT, "Overwrite files that exist.", "--force")]
Json = Annotated[bool, _option(_OUT, "Print one line of json on standard output.", "--json")]
Quiet = Annotated[bool, _option(_OUT, "No progress and no summary.", "--quiet", "-q")]


@dataclass(frozen=True)
class ModelOptions:
    """What `DiffEditPipeline.from_pretrained` is called with; fields as there."""

    model: str
    backend: str
    engines: Path | None
    device: str | None
    dtype: str | None
    size: Size | None
    compile: bool
    pin_batch_size: int | None
    variant: str | None
    revision: str | None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> ModelOptions:
        """From a command's arguments, by name."""
        names = ["backend", "engines", "device", "dtype", "compile", "pin_batch_size"]
        names += ["variant", "revision"]
        return cls(
            model=given["model"] or default_model(),
            size=size_of(given["size"]),
            **{name: given[name] for name in names},
        )


def default_model(root: Path = Path(diffedit.__file__).parent.parent) -> str:
    """The model that a clone brings along; UsageError where there is none."""
    shipped = root / "demo" / "model"
    if (shipped / "model_index.json").is_file():
        return str(shipped)
    raise UsageError(
        "No model was named; give --model (a folder in diffusers' format or a hub id) or set "
        "DIFFEDIT_MODEL."
    )


def size_of(text: str | None) -> Size | None:
    """--size as numbers; UsageError where it is none."""
    try:
        return parse_size(text) if text is not None else None
    except ValueError as error:
        raise UsageError(f"--size is wrong: {error}.") from None


def request_parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a command's arguments that are parameters of a request, by name."""
    return {name: given[name] for name in PARAMETERS if name in given}
