"""Schedules of rectified flow and of distilled checkpoints equal those of diffusers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, LCMScheduler, TCDScheduler

from diffedit.algorithm.schedule import Schedule
from engine.errors import CheckpointError
from tests.algorithm.flow_tools import step
from tests.algorithm.test_schedule import FLOW, FLUX, SD3, SD15, latent

STATIC = {
    "sd3": SD3,
    "schnell": {**FLOW, "shift": 1.0},
    "other": {**FLOW, "shift": 7.5, "num_train_timesteps": 400},
    "terminal": {**FLOW, "shift": 2.0, "shift_terminal": 0.1},
}


def theirs(config: dict[str, Any], steps: int, **options: Any) -> FlowMatchEulerDiscreteScheduler:
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(config)
    scheduler.set_timesteps(steps, **options)
    return scheduler


def assert_equal_tables(schedule: Schedule, scheduler: FlowMatchEulerDiscreteScheduler) -> None:
    sigmas = torch.tensor(schedule.sigmas).flip(0)
    torch.testing.assert_close(sigmas, scheduler.sigmas, atol=1e-6, rtol=1e-5)
    times = torch.tensor(schedule.timesteps[1:]).flip(0)
    torch.testing.assert_close(times, scheduler.timesteps, atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("name", STATIC)
@pytest.mark.parametrize("steps", [1, 2, 4, 28, 50])
def test_static_shifts_equal_diffusers(name: str, steps: int) -> None:
    if name == "terminal" and steps == 1:
        return  # diffusers divides 0 by 0 there
    config = STATIC[name]
    assert_equal_tables(Schedule.from_config(config, steps), theirs(config, steps))


@pytest.mark.parametrize("shift_type", ["exponential", "linear"])
@pytest.mark.parametrize("tokens", [64, 256, 1024, 4096, 8100])
@pytest.mark.parametrize("steps", [1, 4, 28])
def test_dynamic_shifts_equal_diffusers(shift_type: str, tokens: int, steps: int) -> None:
    """FLUX's pipeline passes sigmas k/N, and mu from the number of image tokens."""
    config = {**FLUX, "time_shift_type": shift_type}
    mu = 0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256)
    scheduler = theirs(config, steps, sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
    schedule = Schedule.from_config(config, steps, image_tokens=tokens, uniform_sigmas=True)
    assert_equal_tables(schedule, scheduler)


@pytest.mark.parametrize("config", [SD3, FLUX], ids=["sd3", "flux"])
def test_a_step_is_eulers(config: dict[str, Any]) -> None:
    schedule = Schedule.from_config(config, 10, image_tokens=500)
    mu = 0.5 + (1.15 - 0.5) * (500 - 256) / (4096 - 256)
    scheduler = theirs(config, 10, mu=mu)
    for i in range(10, 0, -1):
        x, out = latent(i), latent(100 + i)
        expected = scheduler.step(out, scheduler.timesteps[10 - i], x).prev_sample
        torch.testing.assert_close(step(schedule, out, x, i, i - 1), expected, atol=3e-6, rtol=3e-6)


@pytest.mark.parametrize("config", [SD3, FLUX], ids=["sd3", "flux"])
def test_a_flow_ends_as_noise_and_begins_clean(config: dict[str, Any]) -> None:
    schedule = Schedule.from_config(config, 8, image_tokens=4096)
    assert (schedule.alphas[0], schedule.sigmas[0]) == (1, 0)
    assert schedule.sigmas[-1] == pytest.approx(1) and math.isclose(schedule.timesteps[-1], 1000)
    assert schedule.prediction_type == "flow"


@pytest.mark.parametrize("scheduler_class", [LCMScheduler, TCDScheduler])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 8, 50])
@pytest.mark.parametrize("known", [50, 40])
def test_distilled_timesteps_equal_diffusers(
    scheduler_class: type[Any], steps: int, known: int
) -> None:
    if steps > known:
        with pytest.raises(ValueError, match=rf"1\.\.{known}"):
            Schedule.from_config(_distilled(scheduler_class, known), steps)
        return
    scheduler = scheduler_class.from_config(_distilled(scheduler_class, known))
    scheduler.set_timesteps(steps)
    schedule = Schedule.from_config(_distilled(scheduler_class, known), steps)
    assert list(schedule.timesteps[1:]) == scheduler.timesteps.tolist()[::-1]


def _distilled(scheduler_class: type[Any], known: int) -> dict[str, Any]:
    return {**SD15, "_class_name": scheduler_class.__name__, "original_inference_steps": known}


@pytest.mark.parametrize(
    "option",
    ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "invert_sigmas"],
)
def test_flow_options_that_are_not_implemented_are_named(option: str) -> None:
    with pytest.raises(CheckpointError, match=option):
        Schedule.from_config({**SD3, option: True}, 4)


def test_an_unknown_shift_is_named() -> None:
    with pytest.raises(CheckpointError, match="cubic"):
        Schedule.from_config({**FLUX, "time_shift_type": "cubic"}, 4, image_tokens=256)
