"""Compute noise levels and timesteps from a checkpoint's `scheduler_config.json`.

Two kinds of training schedule are read: variance-preserving diffusion (a table of abar by training
timestep) and rectified flow (sigma between 0 and 1). Pure functions that return numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from engine.errors import CheckpointError

FLOW_CLASS = "FlowMatchEulerDiscreteScheduler"
DISTILLED_GRIDS = ("LCMScheduler", "TCDScheduler")
"""Schedulers of consistency-distilled checkpoints, which were trained at some timesteps only."""

ENDS_EARLY = ("DDIM", "PNDM", *DISTILLED_GRIDS)
"""Prefixes of the scheduler classes that have the option set_alpha_to_one."""


def training_steps(config: Mapping[str, Any]) -> int:
    """Number of timesteps that the checkpoint was trained with."""
    return int(config.get("num_train_timesteps", 1000))


def clean_abar(config: Mapping[str, Any], first: float) -> float:
    """Return abar of level 0: 1, or `first`, the abar of the first training timestep, if
    set_alpha_to_one is false. Euler's and DPM's schedulers ignore that option and end at 1."""
    name = str(config.get("_class_name", ENDS_EARLY[0]))
    ends_early = name.startswith(ENDS_EARLY) and not config.get("set_alpha_to_one", True)
    return first if ends_early else 1.0


def is_flow(config: Mapping[str, Any]) -> bool:
    """Whether the checkpoint was trained by flow matching."""
    return config.get("_class_name") == FLOW_CLASS


def max_steps(config: Mapping[str, Any]) -> int:
    """The largest number of inference steps: the number of timesteps used in training."""
    train = training_steps(config)
    return min(_distilled_steps(config), train) if _is_distilled(config) else train


def diffusion_abar(config: Mapping[str, Any]) -> list[float]:
    """abar of every training timestep, computed in float32 as in training.

    Reads beta_schedule, beta_start, beta_end, trained_betas and rescale_betas_zero_snr, with
    diffusers' defaults. Raises CheckpointError for an unknown beta_schedule.
    """
    abar = (1.0 - _betas(config)).cumprod(0)
    if config.get("rescale_betas_zero_snr"):
        abar = _zero_terminal_snr(abar)
    return [float(a) for a in abar.double()]


def diffusion_timesteps(config: Mapping[str, Any], steps: int) -> list[int]:
    """The training timesteps of levels 1..N, ascending.

    Reads timestep_spacing, steps_offset and, for LCM and TCD, original_inference_steps. Raises
    CheckpointError for an unknown timestep_spacing.
    """
    train = training_steps(config)
    if _is_distilled(config):
        return _distilled_timesteps(train, _distilled_steps(config), steps)
    spacing = config.get("timestep_spacing", "leading")
    if spacing == "leading":
        ratio, offset = train // steps, int(config.get("steps_offset", 0))
        return [min(i * ratio + offset, train - 1) for i in range(steps)]
    if spacing == "linspace":
        points = torch.linspace(0, train - 1, steps, dtype=torch.float64)
        return [round(float(t)) for t in points]
    if spacing == "trailing":
        return sorted(round(train - k * train / steps) - 1 for k in range(steps))
    raise CheckpointError(f"The scheduler's timestep_spacing {spacing!r} is unknown.")


def flow_sigmas(
    config: Mapping[str, Any], steps: int, *, image_tokens: int, uniform: bool
) -> list[float]:
    """sigma of levels 1..N, ascending, after the shift.

    Args:
        config: reads shift, or base_shift, max_shift, base_image_seq_len and max_image_seq_len
            where use_dynamic_shifting is set; time_shift_type and shift_terminal.
        steps: N.
        image_tokens: tokens of the picture in the denoiser; a dynamic shift depends on it.
        uniform: start from sigmas k/N (FLUX) instead of diffusers' default range (SD 3).

    Raises CheckpointError for options of the scheduler that are not implemented.
    """
    for option in ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"):
        if config.get(option):
            raise CheckpointError(f"The flow-matching scheduler's {option} is not supported.")
    if config.get("invert_sigmas"):
        raise CheckpointError("The flow-matching scheduler's invert_sigmas is not supported.")
    lowest = 1 / steps if uniform else _lowest_flow_sigma(config)
    gap = (1 - lowest) / max(1, steps - 1)
    sigmas = [_shifted(config, 1 - k * gap, image_tokens) for k in range(steps)]
    terminal = config.get("shift_terminal")
    if terminal:
        scale = (1 - sigmas[-1]) / (1 - float(terminal))
        sigmas = [1 - (1 - sigma) / scale for sigma in sigmas]
    return sigmas[::-1]


def _betas(config: Mapping[str, Any]) -> Tensor:
    train, f32 = training_steps(config), torch.float32
    start, end = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
    name = config.get("beta_schedule", "linear")
    if config.get("trained_betas") is not None:
        return torch.tensor(config["trained_betas"], dtype=f32)
    if name == "linear":
        return torch.linspace(start, end, train, dtype=f32)
    if name == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, train, dtype=f32) ** 2
    if name == "squaredcos_cap_v2":
        curve = [math.cos((t / train + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(train + 1)]
        ratios = zip(curve[1:], curve[:-1], strict=True)
        return torch.tensor([min(1 - b / a, 0.999) for b, a in ratios], dtype=f32)
    raise CheckpointError(f"The scheduler's beta_schedule {name!r} is unknown.")


def _zero_terminal_snr(abar: Tensor) -> Tensor:
    """Shift and scale sqrt(abar) so that it ends with 0 and keeps its first value (Lin et al. 2024,
    "Common Diffusion Noise Schedules and Sample Steps are Flawed", algorithm 1)."""
    root = abar.sqrt()
    rescaled = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
    return rescaled**2


def _is_distilled(config: Mapping[str, Any]) -> bool:
    return config.get("_class_name") in DISTILLED_GRIDS


def _distilled_steps(config: Mapping[str, Any]) -> int:
    return int(config.get("original_inference_steps", 50))


def _distilled_timesteps(train: int, known: int, steps: int) -> list[int]:
    """N evenly spaced ones of the `known` timesteps of the distillation (Luo et al. 2023,
    "Latent Consistency Models", section 4.3), ascending."""
    ratio = train // known
    descending = [ratio * k - 1 for k in range(known, 0, -1)]
    return [descending[k * known // steps] for k in range(steps)][::-1]


def _lowest_flow_sigma(config: Mapping[str, Any]) -> float:
    """The smallest sigma of training, shifted once, as diffusers does before it shifts the grid."""
    lowest = 1 / training_steps(config)
    if config.get("use_dynamic_shifting"):
        return lowest
    return _statically_shifted(lowest, float(config.get("shift", 1.0)))


def _shifted(config: Mapping[str, Any], sigma: float, image_tokens: int) -> float:
    """Esser et al. 2024, "Scaling Rectified Flow Transformers", section 5.3.2; FLUX makes the
    shift depend linearly on the number of image tokens."""
    if not config.get("use_dynamic_shifting"):
        return _statically_shifted(sigma, float(config.get("shift", 1.0)))
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    mu = low + (high - low) * (image_tokens - few) / (many - few)
    kind = config.get("time_shift_type", "exponential")
    if kind not in ("exponential", "linear"):
        raise CheckpointError(f"The scheduler's time_shift_type {kind!r} is unknown.")
    factor = math.exp(mu) if kind == "exponential" else mu
    return factor / (factor + 1 / sigma - 1)


def _statically_shifted(sigma: float, shift: float) -> float:
    return shift * sigma / (1 + (shift - 1) * sigma)
