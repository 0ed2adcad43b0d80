"""Check whether an edit can use the training schedule of a `scheduler_config.json`.

An edit only needs the schedule with which the denoiser was trained: abar of every timestep and the
prediction type. The sampling method of the scheduler class does not matter. Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.models.reading import number, whole

USUAL_DEFAULTS = frozenset(
    f"{name}Scheduler"
    for name in (
        *("DDIM", "DDIMInverse", "DDIMParallel", "DDPM", "DDPMParallel", "PNDM", "LMSDiscrete"),
        *("EulerDiscrete", "EulerAncestralDiscrete", "DPMSolverMultistep", "DEISMultistep"),
        *("DPMSolverMultistepInverse", "DPMSolverSinglestep", "UniPCMultistep", "SASolver"),
    )
)
"""Schedulers of diffusion models whose betas are linear from 0.0001 to 0.02 by default."""
OTHER_DEFAULTS = frozenset(
    f"{name}Scheduler"
    for name in (
        *("HeunDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete", "DPMSolverSDE"),
        *("LCM", "TCD"),
    )
)
"""Schedulers of diffusion models with other defaults: their configs must state the betas."""
DISTILLED = ("LCMScheduler", "TCDScheduler")
"""Schedulers of distilled models, which were trained at some timesteps only."""
MAX_TIMESTEPS = 100_000
MAX_SHIFT = 100
FLOW_CLASS = "FlowMatchEulerDiscreteScheduler"
FLOW_OPTIONS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "invert_sigmas")
"""Options of flow-matching schedulers that change the levels and are not implemented."""
FLOW = "it is trained with flow matching, not with diffusion's noise schedule"
EDM = "it is trained on EDM's continuous noise levels, not on timesteps"
KINDS = {
    "FlowM": FLOW,
    "EDM": EDM,
    "CosineDPM": EDM,
    "KarrasVe": EDM,
    "CMStochastic": "it is a consistency model",
    "SCM": "it is a consistency model",
    "CogVideoX": "it shifts the noise schedule of a video model",
    "UnCLIP": "it is a part of unCLIP",
}
"""Prefix of another scheduler's name -> why it is refused."""
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
SPACINGS = ("leading", "linspace", "trailing")
FEW_STEP_CLASSES = ("LCMScheduler", "TCDScheduler")
"""Schedulers that only distilled models use."""
EULER_CLASSES = ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler")


def is_few_step(config: Mapping[str, Any]) -> bool:
    """Whether a scheduler's config is that of a distilled diffusion model.

    SD-Turbo, SDXL-Turbo and Lightning have Euler's scheduler with trailing timesteps; consistency
    models have their own scheduler classes. Models with zero terminal SNR also have trailing
    timesteps, but are not distilled.
    """
    name = config.get("_class_name")
    turbo = name in EULER_CLASSES and config.get("timestep_spacing") == "trailing"
    whole_range = bool(config.get("rescale_betas_zero_snr"))
    epsilon = config.get("prediction_type", "epsilon") == "epsilon"
    return name in FEW_STEP_CLASSES or (turbo and epsilon and not whole_range)


def schedule_problem(config: Mapping[str, Any], listed: str | None) -> str | None:
    """Why an edit cannot follow a scheduler's config, as a clause; None if it can.

    Args:
        config: the contents of `scheduler_config.json`.
        listed: the class in `model_index.json`, or None.
    """
    for name in (config.get("_class_name"), listed):
        if name is not None and (problem := _class_problem(str(name))):
            return problem
    if config.get("prediction_type") == "flow_prediction" or config.get("use_flow_sigmas"):
        return FLOW
    if config.get("timestep_type", "discrete") == "continuous":
        return EDM
    try:
        return _choice_problem(config) or _table_problem(config)
    except ValueError as error:
        return str(error)


def flow_problem(config: Mapping[str, Any]) -> str | None:
    """Why an edit cannot follow a flow-matching scheduler's config, as a clause."""
    for option in FLOW_OPTIONS:
        if config.get(option):
            return f"its {option} is not supported"
    if config.get("time_shift_type", "exponential") not in ("exponential", "linear"):
        return f"its time_shift_type {config['time_shift_type']!r} is unknown"
    try:
        return _steps_problem(config) or _shift_problem(config)
    except ValueError as error:
        return str(error)


def _steps_problem(config: Mapping[str, Any]) -> str | None:
    """Check the number of training timesteps, and that of a distilled model."""
    steps = whole(config, "num_train_timesteps", 1000)
    if not 2 <= steps <= MAX_TIMESTEPS:
        return f"its num_train_timesteps is {steps}, but must be from 2 to {MAX_TIMESTEPS}"
    if config.get("_class_name") in DISTILLED and not (
        whole(config, "original_inference_steps", 50) <= steps
    ):
        return f"its original_inference_steps is above its {steps} training timesteps"
    return None


def _shift_problem(config: Mapping[str, Any]) -> str | None:
    """Check that the numbers give increasing noise levels between 0 and 1."""
    shifts = {key: number(config, key, 1.0) for key in ("shift", "base_shift", "max_shift")}
    for key, shift in shifts.items():
        if not 0 < shift <= MAX_SHIFT:
            return f"its {key} is {shift:g}, but must be above 0 and at most {MAX_SHIFT}"
    terminal = number(config, "shift_terminal", 0) if config.get("shift_terminal") else 0
    if not 0 <= terminal < 1:
        return f"its shift_terminal is {terminal:g}, but must be from 0 to below 1"
    few, many = whole(config, "base_image_seq_len", 256), whole(config, "max_image_seq_len", 4096)
    if few >= many:
        return f"its base_image_seq_len {few} is not below its max_image_seq_len {many}"
    return None


def _class_problem(name: str) -> str | None:
    if name in USUAL_DEFAULTS | OTHER_DEFAULTS:
        return None
    reason = next((why for begin, why in KINDS.items() if name.startswith(begin)), None)
    return f"{name} is not supported" + (f": {reason}" if reason else "")


def _choice_problem(config: Mapping[str, Any]) -> str | None:
    choices = {
        "prediction_type": PREDICTION_TYPES,
        "timestep_spacing": SPACINGS,
        "beta_schedule": BETA_SCHEDULES,
    }
    for key, known in choices.items():
        value = config.get(key, known[0])
        if value not in known and not (key == "beta_schedule" and config.get("trained_betas")):
            return f"its {key} {value!r} is unknown; known are {', '.join(known)}"
    return None


def _table_problem(config: Mapping[str, Any]) -> str | None:
    """Check the numbers of the table. Raises ValueError for a value of another type."""
    if problem := _steps_problem(config):
        return problem
    steps, offset = config.get("num_train_timesteps", 1000), number(config, "steps_offset", 0)
    if offset != int(offset) or not 0 <= offset < steps:
        return f"its steps_offset is {offset:g}, but must be a whole number from 0 to {steps - 1}"
    betas = config.get("trained_betas")
    if betas is not None:
        if not isinstance(betas, list) or len(betas) != steps:
            return f"its trained_betas are not a list of {steps} numbers"
        values = [number({"trained_betas": beta}, "trained_betas") for beta in betas]
        return None if all(0 < b < 1 for b in values) else "its trained_betas leave (0, 1)"
    stated = all(key in config for key in ("beta_start", "beta_end", "beta_schedule"))
    if config.get("_class_name") in OTHER_DEFAULTS and not stated:
        return "it does not state beta_start, beta_end and beta_schedule"
    start, end = number(config, "beta_start", 1e-4), number(config, "beta_end", 0.02)
    if not 0 < start <= end < 1:
        return f"its betas go from {start:g} to {end:g}, but must rise within (0, 1)"
    if (start + end) / 2 * steps < 1:
        return f"its betas {start:g} to {end:g} are too small: its {steps} timesteps add no noise"
    return None
