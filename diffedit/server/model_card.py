"""The response of GET /v1/models: family, size, defaults and provenance of the served model."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from diffedit.pipeline import DiffEditPipeline
from diffedit.presets import DEFAULT_PRESET, PRESET_NAMES, PresetName
from diffedit.request import METHODS, RANGES, EditRequest
from diffedit.server.examples import read_examples

WEIGHTS = ("weights", "precision", "kernels", "loras", "embeddings")
"""The fields of `Provenance` in a model card. `backend` is the readable description."""


def model_card(pipeline: DiffEditPipeline) -> dict[str, Any]:
    """The facts of an open pipeline, as JSON.

    `native_size` is the side in pixels that the model was trained for. `defaults` has the options
    of an edit that sets none, and `presets` the same for each preset. `few_steps` is true for
    distilled models, for which the preset "instant" is made.
    `about` and `examples` are those of `diffedit.server.examples`.
    """
    family = pipeline.checkpoint.family
    used, guidance = asdict(pipeline.provenance), family.defaults.guidance
    return {
        "family": family.name,
        "native_size": family.native_size,
        "size_multiple": family.size_multiple,
        "guidance": guidance,
        "uses_guidance": guidance != "distilled",
        "uses_negative_prompt": guidance == "classifier-free",
        "few_steps": family.defaults.few_steps,
        "methods": [m for m in METHODS if m != "flowedit" or family.defaults.flowedit],
        "defaults": default_options(pipeline),
        "presets": {name: default_options(pipeline, preset=name) for name in PRESET_NAMES},
        **read_examples(pipeline.checkpoint.folder),
        "backend": pipeline.describe(),
        **{name: used[name] for name in WEIGHTS},
    }


def default_options(
    pipeline: DiffEditPipeline, preset: PresetName = DEFAULT_PRESET
) -> dict[str, float]:
    """The default numeric options of an edit, without those of other methods."""
    request = pipeline.resolve(EditRequest(b"", "any", preset=preset))
    values = {name: getattr(request, name) for name in RANGES}
    return {name: value for name, value in values.items() if value is not None}
