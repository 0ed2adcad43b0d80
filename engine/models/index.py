"""Recognize a checkpoint by its `model_index.json`, or describe what else the folder contains.

Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

IGNORED = frozenset({"safety_checker", "feature_extractor", "image_encoder", "watermark"})
"""Optional entries that edits do not use."""
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
"""Prefix of a pipeline class -> common name of the model."""
EXTRA = {
    "text_encoder_2": "SDXL, SD 3 and FLUX have one",
    "controlnet": "it belongs to a ControlNet pipeline",
    "motion_adapter": "it belongs to AnimateDiff",
    "depth_estimator": "it belongs to a depth model",
    "low_res_scheduler": "it belongs to an upscaler",
    "image_normalizer": "it belongs to unCLIP",
}
"""Part of another model -> which model has it."""

LOOKALIKES = {
    "FluxKontext": "it takes the photograph as a second input and an instruction as its text, and "
    "without them it is another model",
    "RectifiedFlow": "it was retrained for rectified flow, which its scheduler does not say",
}
"""Prefix of a pipeline class -> why it is refused, for pipelines whose parts have the classes and
sizes of a supported model but need other inputs."""
LOOKALIKE_NAMES = {"flux": ("kontext",)}
"""Family -> pattern in the names of such models, which nothing else in a single file reveals."""


def class_of(index: Mapping[str, Any], name: str) -> tuple[str | None, str | None]:
    """(package, class) of an entry; (None, None) if there is none or it has another form."""
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
        title: name of the models, for messages.
    """
    for begin, reason in LOOKALIKES.items():
        if pipeline_class(index).startswith(begin):
            return f"has {_pipeline(index)}: {reason}; {SUPPORTED}."
    for name, (package, class_name) in wanted.items():
        found_package, found = class_of(index, name)
        if found is None:
            if "_class_name" not in index:
                return f"has no {name}; {title} checkpoints have one."
            return (
                f"has {_pipeline(index)} without a {name}, which {title} checkpoints have; "
                f"{SUPPORTED}."
            )
        if found.removesuffix("Fast") != class_name:
            return (
                f"has {_pipeline(index)} whose {name} is a {found}, not a {class_name} as in "
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
            f"has {_pipeline(index)} with a {name}{reason}, which {title} does not have; "
            f"{SUPPORTED}."
        )
    return None


def _extra_parts(index: Mapping[str, Any], wanted: Iterable[str]) -> list[str]:
    """Parts of the model that this project would silently ignore."""
    known = {*wanted, "scheduler"} | IGNORED
    names = [name for name in index if not name.startswith("_") and name not in known]
    return [name for name in names if class_of(index, name) != (None, None)]


def pipeline_class(index: Mapping[str, Any]) -> str:
    """The class of the pipeline, such as "StableDiffusionXLPipeline"."""
    name = index.get("_class_name", "pipeline")
    return str(name[-1] if isinstance(name, list) and name else name)


def lookalike_warning(name: str, family: str) -> str | None:
    """A warning about a model that only its name distinguishes from the family, or None.

    Args:
        name: of the file or folder.
        family: the name of the family that it was read as.
    """
    if not any(word in name.lower() for word in LOOKALIKE_NAMES.get(family, ())):
        return None
    return (
        f"The name {name} is that of a Kontext model, which its tensors do not show. It is used "
        "like FLUX.1 dev, but Kontext was trained with other inputs, so edits are likely to fail; "
        "use FLUX.1 dev, or rename the file if it is FLUX.1 dev."
    )


def _pipeline(index: Mapping[str, Any]) -> str:
    """Such as "a StableDiffusionXLPipeline (SDXL)"."""
    name = pipeline_class(index)
    title = next((t for begin, t in TITLES.items() if name.startswith(begin)), None)
    return f"a {name}" + (f" ({title})" if title else "")
