"""Checks that several families share: classes, widths, schedules and vocabularies of a checkpoint.

All checks use the JSON files, before weights are read. Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.errors import CheckpointError
from engine.models.configs import part_problem
from engine.models.family import Configs, Part
from engine.models.index import class_of
from engine.models.noise_schedule import FLOW_CLASS, flow_problem, schedule_problem
from engine.models.reading import read_configs, whole
from engine.models.values import autoencoder_problem
from engine.models.vocabulary import check_vocabulary

Problem = tuple[str, str]
"""(part, clause)."""


def wanted_classes(
    parts: Sequence[Part], tokenizers: Mapping[str, str]
) -> dict[str, tuple[str, str]]:
    """Part or tokenizer -> (package, class), for `index_problem`; the denoiser first. Each text
    encoder needs its tokenizer."""
    wanted = {part.name: (part.package, part.class_name) for part in reversed(parts)}
    for name, class_name in tokenizers.items():
        if name.replace("tokenizer", "text_encoder") in wanted:
            wanted[name] = ("transformers", class_name)
    return wanted


def checked_configs(
    folder: Path,
    index: Mapping[str, Any],
    parts: Sequence[Part],
    problem: Callable[[Configs], Problem | None],
    title: str,
) -> Configs:
    """Return the configs of a checkpoint after checking its classes and calling `problem`.

    Raises CheckpointError with the first problem.
    """
    configs = read_configs(folder, [part.name for part in parts])
    listed = class_of(index, "scheduler")[1]
    if listed is not None and "_class_name" not in configs["scheduler"]:
        configs["scheduler"]["_class_name"] = listed
    found = _first_problem(configs, parts, problem)
    if found:
        part, clause = found
        raise CheckpointError(
            f"The {part} of {folder} cannot be used: {clause}; use a checkpoint of {title}."
        )
    return configs


def _first_problem(
    configs: Configs, parts: Sequence[Part], problem: Callable[[Configs], Problem | None]
) -> Problem | None:
    for part in parts:
        clause = part_problem(configs[part.name], part)
        if clause:
            return part.name, clause
    try:
        clause = autoencoder_problem(configs["vae"])
        return ("vae", clause) if clause else problem(configs)
    except (ValueError, TypeError, KeyError) as error:
        return "config", str(error)


def other_inputs(found: int, latent: int, kinds: Mapping[int, str]) -> str | None:
    """The problem of a denoiser with more inputs than the latent, as a clause, or None.

    Args:
        found: its input channels.
        latent: channels of the latent, as the denoiser takes them.
        kinds: number of input channels -> kind of model.
    """
    if found == latent or found not in kinds:
        return None
    return (
        f"it takes {found} channels, but the latents have {latent}: this is {kinds[found]}; use "
        "the base model"
    )


def mismatch(part: str, config: Mapping[str, Any], key: str, wanted: int) -> Problem | None:
    """The problem of a number in a config that differs from `wanted`."""
    found = whole(config, key)
    if found == wanted:
        return None
    return (
        part,
        f"its {key} is {found}, but the other parts need {wanted}: they do not belong together",
    )


def schedule_mismatch(configs: Configs, *, flow: bool) -> Problem | None:
    """The problem of a scheduler that is not for rectified flow, or not for diffusion."""
    config = configs["scheduler"]
    name = config.get("_class_name")
    if not flow:
        clause = schedule_problem(config, None)
    elif name != FLOW_CLASS:
        clause = f"{name} is not supported here: the model is trained by flow matching"
    else:
        clause = flow_problem(config)
    return ("scheduler", clause) if clause else None


def check_vocabularies(folder: Path, configs: Configs) -> None:
    """Raise CheckpointError unless every tokenizer fits its text encoder."""
    for part, config in configs.items():
        if part.startswith("text_encoder"):
            check_vocabulary(folder / part.replace("text_encoder", "tokenizer"), config)
