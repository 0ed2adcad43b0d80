"""The noise schedule: one immutable table, and pure functions over it.

In every latent diffusion family x_i = alpha_i x_0 + sigma_i eps. For diffusion (the paper's section
3.1) alpha = sqrt(abar) and sigma = sqrt(1 - abar); for rectified flow alpha = 1 - sigma. A *level*
i indexes the grid of N + 1 points: 0 is the clean latent, i the i-th noisier point. All stages of
an edit share one grid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from diffedit.algorithm import training_schedule as training
from diffedit.algorithm.transfer import to_device
from engine.errors import CheckpointError

SMALLEST_ABAR = 2.0**-24
"""A zero-terminal-SNR schedule ends with abar = 0, where eps alone does not determine x_0. For
networks that predict eps the table has this value instead, far below the precision of float32
latents (Lin et al. 2024, section 3.1)."""

Prediction = Literal["epsilon", "v_prediction", "sample", "flow"]
DIFFUSION_PREDICTIONS: tuple[Prediction, ...] = get_args(Prediction)[:3]


@dataclass(frozen=True)
class Schedule:
    """The table of one checkpoint for N steps. Every tuple has N + 1 entries, by level.

    Attributes:
        alphas: factor of x_0; strictly decreasing from level 1.
        sigmas: factor of the noise.
        timesteps: the denoiser's timestep input, in [0, 1000]; that of level 0 is never used.
        prediction_type: what the denoiser predicts: eps, v = alpha eps - sigma x_0 (Salimans & Ho
            2022), x_0 ("sample"), or eps - x_0 ("flow").
    """

    alphas: tuple[float, ...]
    sigmas: tuple[float, ...]
    timesteps: tuple[float, ...]
    prediction_type: Prediction

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        num_inference_steps: int,
        *,
        image_tokens: int = 0,
        uniform_sigmas: bool = False,
    ) -> Schedule:
        """Build the table for a `scheduler_config.json`, as diffusers' schedulers do.

        Args:
            config: config of any diffusers scheduler. Its training schedule and timestep spacing
                are read; `diffedit.algorithm.training_schedule` lists the fields.
            num_inference_steps: N.
            image_tokens, uniform_sigmas: rectified flow only; see `training_schedule.flow_sigmas`.

        Raises CheckpointError for unknown values, ValueError for a number of steps out of range.

        Examples:
            >>> betas = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
            >>> schedule = Schedule.from_config(betas, 50)
            >>> schedule.steps, schedule.timesteps[-1]
            (50, 980.0)
            >>> schedule.level(0.8)
            40
        """
        most = training.max_steps(config)
        if not 1 <= num_inference_steps <= most:
            raise ValueError(f"num_inference_steps must lie in 1..{most} for this checkpoint.")
        if training.is_flow(config):
            sigmas = training.flow_sigmas(
                config, num_inference_steps, image_tokens=image_tokens, uniform=uniform_sigmas
            )
            return _flow_schedule(sigmas, training.training_steps(config))
        return _diffusion_schedule(config, num_inference_steps)

    @property
    def steps(self) -> int:
        """N."""
        return len(self.alphas) - 1

    def level(self, strength: float) -> int:
        """Return the level at `strength` in (0, 1]: round(N * strength), at least 1."""
        return max(1, round(self.steps * strength))

    def noise(self, x0: Tensor, eps: Tensor, i: int) -> Tensor:
        """Return x_i = alpha_i x0 + sigma_i eps.

        With Gaussian noise this is the forward process. With (x0, eps) predicted at another level
        it is a step of the sampler, up or down: DDIM's for diffusion (the paper's equation 2),
        Euler's for rectified flow.
        """
        return self.alphas[i] * x0 + self.sigmas[i] * eps

    def split(self, prediction: Tensor, x: Tensor, i: int) -> tuple[Tensor, Tensor]:
        """Return (x_0, eps) of `x` at level i, from the denoiser's raw prediction.

        It never divides by 0. For "sample", a level without noise uses the coefficients of the next
        level, because eps is not defined there.
        """
        alpha, sigma = self.alphas[i], self.sigmas[i]
        if self.prediction_type == "epsilon":
            return (x - sigma * prediction) / alpha, prediction
        if self.prediction_type == "v_prediction":
            return alpha * x - sigma * prediction, sigma * x + alpha * prediction
        if self.prediction_type == "flow":
            return x - sigma * prediction, x + alpha * prediction
        if sigma > 0:
            return prediction, (x - alpha * prediction) / sigma
        return x / alpha, (x - self.alphas[i + 1] * prediction) / self.sigmas[i + 1]


@lru_cache(maxsize=64)
def timestep_tensors(schedule: Schedule, device: torch.device) -> tuple[Tensor, ...]:
    """The timestep of each level as a float32 scalar on `device`; cached."""
    timesteps = torch.tensor(schedule.timesteps, dtype=torch.float32)
    return to_device(timesteps, device).unbind(0)


def _flow_schedule(sigmas: list[float], train: int) -> Schedule:
    levels = (0.0, *sigmas)
    return Schedule(
        alphas=tuple(1.0 - sigma for sigma in levels),
        sigmas=levels,
        timesteps=tuple(sigma * train for sigma in levels),
        prediction_type="flow",
    )


def _diffusion_schedule(config: Mapping[str, Any], steps: int) -> Schedule:
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in DIFFUSION_PREDICTIONS:
        raise CheckpointError(f"The scheduler's prediction_type {prediction!r} is unknown.")
    all_abar = training.diffusion_abar(config)
    times = training.diffusion_timesteps(config, steps)
    first = training.clean_abar(config, all_abar[0])
    lowest = SMALLEST_ABAR if prediction == "epsilon" else 0.0
    abar = (first, *(max(all_abar[t], lowest) for t in times))
    return Schedule(
        alphas=tuple(math.sqrt(a) for a in abar),
        sigmas=tuple(math.sqrt(1.0 - a) for a in abar),
        timesteps=(0.0, *map(float, times)),
        prediction_type=prediction,
    )
