"""The scheduler that a distilling LoRA needs: LCM, TCD, Lightning, Hyper-SD, Turbo.

Such a LoRA makes a base model sample in a few steps, from the timesteps of its own scheduler. Its
file does not name that scheduler, so the user does. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.errors import CheckpointError
from engine.models.family import ModelFamily
from engine.models.noise_schedule import FLOW_CLASS

SCHEDULERS: Mapping[str, Mapping[str, Any]] = {
    "lcm": {"_class_name": "LCMScheduler"},
    "tcd": {"_class_name": "TCDScheduler"},
    "trailing": {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"},
}
"""Name -> what replaces these keys of `scheduler_config.json`. The last one is that of Lightning,
Hyper-SD and Turbo."""
USUAL_BETAS = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
"""diffusers' defaults, which LCM's and TCD's schedulers do not share."""
_TITLES = re.compile(
    r"(?<![a-z])(lcm|tcd|lightning|hyper[-_ ]?sd|turbo|dmd2?|few[-_ ]?steps?)(?![a-z])", re.I
)
_SUGGESTIONS = {"lightning": "trailing", "turbo": "trailing", "hyper": "trailing", "tcd": "tcd"}
_PLAIN_NAMES = ("pytorch_lora_weights", "adapter_model")
"""Names of files in folders that are named after the LoRA: those of diffusers and PEFT."""


def with_scheduler(family: ModelFamily, name: str) -> ModelFamily:
    """Return the family with the timesteps and defaults of a distilled model.

    Args:
        name: one of `SCHEDULERS`.

    Raises CheckpointError for another name, and if the family was trained by flow matching or does
    not predict the noise, as these LoRAs need.
    """
    if name not in SCHEDULERS:
        raise CheckpointError(
            f"There is no scheduler {name!r}; use one of {', '.join(SCHEDULERS)}."
        )
    config = family.configs["scheduler"]
    if config.get("_class_name") == FLOW_CLASS:
        raise CheckpointError(
            f"scheduler is {name!r}, but this model ({family.name}) is trained by flow matching "
            "and keeps its own; leave scheduler out and set the steps of the LoRA."
        )
    by_noise = config.get("prediction_type", "epsilon") == "epsilon"
    if not by_noise or config.get("rescale_betas_zero_snr"):
        raise CheckpointError(
            f"scheduler is {name!r}, but the LoRAs of that scheduler are for models that predict "
            "the noise (epsilon), and this one was trained otherwise; leave scheduler out."
        )
    changed = {**USUAL_BETAS, **config, **SCHEDULERS[name]}
    bound: Any = family
    distilled: ModelFamily = replace(bound, configs={**family.configs, "scheduler": changed})
    return distilled


def distilling_warning(loras: Sequence[Path], family: ModelFamily) -> str | None:
    """A warning if a LoRA is named like a distilling one, but the model has its usual steps."""
    if family.defaults.few_steps or family.configs["scheduler"].get("_class_name") == FLOW_CLASS:
        return None
    for path in loras:
        # In the hub's cache, the folder of the LoRA is three above the file.
        named = "/".join(path.parts[-4:]) if path.stem in _PLAIN_NAMES else path.stem
        if found := _TITLES.search(named):
            name = _SUGGESTIONS.get(re.split("[-_ ]", found[1].lower())[0], "lcm")
            return (
                f"The LoRA {path.name} looks like one for a few steps, but the model keeps its "
                f"{family.defaults.steps} steps and guidance; if so, pass scheduler={name!r} "
                f"(--scheduler {name})."
            )
    return None
