"""The noise schedule: one immutable table, and three pure functions over it.

Notation of the paper (section 3.1): x_i = sqrt(abar_i) x_0 + sigma_i eps, where sigma_i =
sqrt(1 - abar_i). A *level* i indexes the grid of N + 1 points: 0 is the clean latent, i the i-th
noisier point. All stages of an edit share one grid. Networks, prompts and masks are not known here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from engine.errors import CheckpointError

SMALLEST_ABAR = 2.0**-24
"""A zero-terminal-SNR schedule ends with abar = 0, where eps alone does not determine x_0. The
table has this value instead, far below the precision of float32 latents (Lin et al. 2024, section
3.1)."""


@dataclass(frozen=True)
class Schedule:
    """The table of one checkpoint for N steps. Every tuple has N + 1 entries, by level.

    Attributes:
        abar: cumulative product of alphas; strictly decreasing from level 1.
        timesteps: training timestep of each level; that of level 0 is never used.
        prediction_type: what the network predicts: "epsilon", "v_prediction" or "sample".
    """

    abar: tuple[float, ...]
    timesteps: tuple[int, ...]
    prediction_type: str

    @classmethod
    def from_config(cls, config: Mapping[str, Any], num_inference_steps: int) -> Schedule:
        """The table for a `scheduler_config.json`.

        Reads beta_schedule, beta_start, beta_end, trained_betas, num_train_timesteps,
        timestep_spacing, steps_offset, set_alpha_to_one, rescale_betas_zero_snr and
        prediction_type, with diffusers' defaults.

        Raises CheckpointError for unknown values, ValueError for a number of steps out of range.
        """
        train = int(config.get("num_train_timesteps", 1000))
        if not 1 <= num_inference_steps <= train:
            raise ValueError(f"num_inference_steps must lie in 1..{train} for this checkpoint.")
        all_abar = _training_abar(config, train)
        times = _grid(config, train, num_inference_steps)
        first = 1.0 if config.get("set_alpha_to_one", True) else all_abar[0]
        prediction = str(config.get("prediction_type", "epsilon"))
        if prediction not in ("epsilon", "v_prediction", "sample"):
            raise CheckpointError(f"The scheduler's prediction_type {prediction!r} is unknown.")
        abar = (first, *(max(all_abar[t], SMALLEST_ABAR) for t in times))
        return cls(abar, (0, *times), prediction)

    @property
    def steps(self) -> int:
        """N."""
        return len(self.abar) - 1

    def level(self, strength: float) -> int:
        """The level at `strength` (0, 1] of the grid: round(N * strength), at least 1."""
        return max(1, round(self.steps * strength))

    def sigma(self, i: int) -> float:
        return math.sqrt(1.0 - self.abar[i])

    def noise(self, x0: Tensor, eps: Tensor, i: int) -> Tensor:
        """x_i from the clean latent and a Gaussian `eps` of its shape."""
        return math.sqrt(self.abar[i]) * x0 + self.sigma(i) * eps

    def eps(self, prediction: Tensor, x: Tensor, i: int) -> Tensor:
        """The noise in `x`, at level i, from the network's raw prediction.

        v-prediction (Salimans & Ho 2022): v = sqrt(abar) eps - sigma x_0, hence
        eps = sqrt(abar) v + sigma x. For `sample`, a level without noise uses the coefficients of
        the next one, because eps is not defined there.
        """
        if self.prediction_type == "epsilon":
            return prediction
        if self.prediction_type == "v_prediction":
            return math.sqrt(self.abar[i]) * prediction + self.sigma(i) * x
        i = i if self.sigma(i) > 0 else i + 1
        return (x - math.sqrt(self.abar[i]) * prediction) / self.sigma(i)

    def step(self, x: Tensor, eps: Tensor, i: int, j: int) -> Tensor:
        """The DDIM step of `x` from level i to level j, up or down (the paper's equation 2).

        x_0 = (x - sigma_i eps) / sqrt(abar_i);  x_j = sqrt(abar_j) x_0 + sigma_j eps.
        """
        return math.sqrt(self.abar[j]) * self.clean(x, eps, i) + self.sigma(j) * eps

    def clean(self, x: Tensor, eps: Tensor, i: int) -> Tensor:
        """x_0, if the noise of `x` at level i is `eps`."""
        return (x - self.sigma(i) * eps) / math.sqrt(self.abar[i])


@lru_cache(maxsize=64)
def timestep_tensors(schedule: Schedule, device: torch.device) -> tuple[Tensor, ...]:
    """The timestep of each level as a float32 scalar on `device`; cached."""
    return torch.tensor(schedule.timesteps, dtype=torch.float32).to(device).unbind(0)


def _training_abar(config: Mapping[str, Any], train: int) -> list[float]:
    """abar of every training timestep, computed in float32 as in training."""
    start, end = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
    name = config.get("beta_schedule", "linear")
    f32 = torch.float32
    if config.get("trained_betas") is not None:
        betas = torch.tensor(config["trained_betas"], dtype=f32)
    elif name == "linear":
        betas = torch.linspace(start, end, train, dtype=f32)
    elif name == "scaled_linear":
        betas = torch.linspace(start**0.5, end**0.5, train, dtype=f32) ** 2
    elif name == "squaredcos_cap_v2":
        curve = [math.cos((t / train + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(train + 1)]
        ratios = zip(curve[1:], curve[:-1], strict=True)
        betas = torch.tensor([min(1 - b / a, 0.999) for b, a in ratios], dtype=f32)
    else:
        raise CheckpointError(f"The scheduler's beta_schedule {name!r} is unknown.")
    abar = (1.0 - betas).cumprod(0)
    if config.get("rescale_betas_zero_snr"):
        abar = _zero_terminal_snr(abar)
    return [float(a) for a in abar.double()]


def _zero_terminal_snr(abar: Tensor) -> Tensor:
    """Shift and scale sqrt(abar) so that it ends with 0 and keeps its first value (Lin et al. 2024,
    "Common Diffusion Noise Schedules and Sample Steps are Flawed", algorithm 1)."""
    root = abar.sqrt()
    rescaled = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
    return rescaled**2


def _grid(config: Mapping[str, Any], train: int, steps: int) -> list[int]:
    """The training timesteps of levels 1..N, ascending."""
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
