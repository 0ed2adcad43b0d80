"""The options for the model, its additions and its backend."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import diffedit
from diffedit.cli.errors import UsageError
from diffedit.cli.options import option
from engine.model_options import MODEL_ITSELF, PANEL, ModelSource
from engine.netspec import Size, parse_size
from engine.option_groups import completing

MODEL = PANEL
BACKENDS = ("auto", "torch", "onnxruntime", "tensorrt")
"""The same as `diffedit.arguments.BACKENDS`, which is slower to import."""


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
Backend = Annotated[
    str,
    option(
        MODEL, f"One of {', '.join(BACKENDS)}.", "--backend", autocompletion=completing(BACKENDS)
    ),
]
DType = Annotated[
    str | None,
    option(
        MODEL,
        "Precision of the torch backend: fp32, bf16 or fp16; for single parts, for example "
        "fp16,text_encoder_3=bf16.",
        "--dtype",
        autocompletion=completing(("fp32", "bf16", "fp16")),
        show_default="the fastest safe one",
    ),
]
Device = Annotated[
    str | None,
    option(
        MODEL,
        "cpu, cuda or cuda:N.",
        "--device",
        autocompletion=completing(("cpu", "cuda")),
        show_default="a GPU if there is one",
    ),
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
    """The model and the backend. Fields as in `DiffEditPipeline.from_pretrained`."""

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
