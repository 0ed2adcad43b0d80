"""Recognise a checkpoint by its `model_index.json`, or say what else the folder is.

Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

IGNORED = frozenset({"safety_checker", "feature_extractor", "image_encoder", "watermark"})
"""Entries that may be there and that no edit uses."""
SUPPORTED = "supported are Stable Diffusion 1.x, 2.x, XL, 3 and 3.5, and FLUX.1"
TITLES = {
    "StableDiffusionXL": "SDXL",
    "StableDiffusion3": "Stable Diffusion 3",
    "FluxPriorRedux": "FLUX.1 Redux",
    "Flux2": "FLUX.2",
    "FluxKontext": "FLUX.1 Kontext",
    "Flux": "FLUX",
    "StableUnCLIP": "Stable unCLIP",
    "Kandinsky": "Kandinsky",
    "StableCascade": "Stable Cascade",
    "StableVideo": "Stable Video Diffusion",
    "PixArt": "PixArt",
    "Chroma": "Chroma",
    "Sana": "Sana",
    "AnimateDiff": "AnimateDiff",
}
"""Beginnings of pipeline classes, and what people call these models."""
EXTRA = {
    "text_encoder_2": "SDXL, SD 3 and FLUX have one",
    "controlnet": "it belongs to a ControlNet pipeline",
    "motion_adapter": "it belongs to AnimateDiff",
    "depth_estimator": "it belongs to a depth model",
    "low_res_scheduler": "it belongs to an upscaler",
    "image_normalizer": "it belongs to unCLIP",
}
"""Parts of other models, and what they mean."""

LOOKALIKES = {
    "FluxKontext": "it takes the photograph as a second input and an instruction as its text, and "
    "without them it is another model",
    "RectifiedFlow": "it was retrained for rectified flow, which its scheduler does not say",
}
"""Beginnings of pipelines whose parts have the classes and sizes of a supported model but need
other inputs, and why they are refused."""
LOOKALIKE_NAMES = {"flux": ("kontext",)}
"""Family -> what the names of such models contain. A single file has nothing else that says so."""


def class_of(index: Mapping[str, Any], name: str) -> tuple[str | None, str | None]:
    """(package, class) of an entry; (None, None) if it has none or it has another form."""
    entry = index.get(name)
    if isinstance(entry, list) and len(entry) == 2 and all(isinstance(e, str) for e in entry):
        return entry[0], entry[1]
    return None, None


def index_problem(
    index: Mapping[str, Any], wanted: Mapping[str, tuple[str, str]], title: str
) -> str | None:
    """Why an index does not describe a model of these classes, as the end of a sentence that begins
    with the folder; None if it does.

    Args:
        wanted: part -> (package, class); a tokenizer's class may end with "Fast".
        title: what the models are called.
    """
    for begin, reason in LOOKALIKES.items():
        if pipeline_class(index).startswith(begin):
            return f"holds {_pipeline(index)}: {reason}; {SUPPORTED}."
    for name, (package, class_name) in wanted.items():
        found_package, found = class_of(index, name)
        if found is None:
            if "_class_name" not in index:
                return f"has no {name}; {title} checkpoints have one."
            return (
                f"holds {_pipeline(index)} without a {name}, which {title} checkpoints have; "
                f"{SUPPORTED}."
            )
        if found.removesuffix("Fast") != class_name:
            return (
                f"holds {_pipeline(index)} whose {name} is a {found}, not a {class_name} as in "
                f"{title}; {SUPPORTED}."
            )
        if found_package != package:
            return (
                f"takes its {name} from the package {found_package!r}; only {package}'s "
                f"{class_name} is supported, and no code of a checkpoint is run."
            )
    for name in _extra_parts(index, wanted):
        reason = f" ({EXTRA[name]})" if name in EXTRA else ""
        return (
            f"holds {_pipeline(index)} with a {name}{reason}, which {title} has not; {SUPPORTED}."
        )
    return None


def _extra_parts(index: Mapping[str, Any], wanted: Iterable[str]) -> list[str]:
    """Parts that a pipeline of ours would leave out without a word."""
    known = {*wanted, "scheduler"} | IGNORED
    names = [name for name in index if not name.startswith("_") and name not in known]
    return [name for name in names if class_of(index, name) != (None, None)]


def pipeline_class(index: Mapping[str, Any]) -> str:
    """The class of the pipeline, such as "StableDiffusionXLPipeline"."""
    name = index.get("_class_name", "pipeline")
    return str(name[-1] if isinstance(name, list) and name else name)


def lookalike_warning(name: str, family: str) -> str | None:
    """A sentence about a model that only its name tells from one of the family, or None.

    Args:
        name: of the file or folder.
        family: the name of the family that it was read as.
    """
    if not any(word in name.lower() for word in LOOKALIKE_NAMES.get(family, ())):
        return None
    return (
        f"By its name {name} is a Kontext model, which nothing else in it says. It is used like "
        "FLUX.1 dev, but it was trained with other inputs, so its edits are likely to be spoilt; "
        "use FLUX.1 dev, or rename it if it is one."
    )


def _pipeline(index: Mapping[str, Any]) -> str:
    """Such as "a StableDiffusionXLPipeline (SDXL)"."""
    name = pipeline_class(index)
    title = next((t for begin, t in TITLES.items() if name.startswith(begin)), None)
    return f"a {name}" + (f" ({title})" if title else "")
