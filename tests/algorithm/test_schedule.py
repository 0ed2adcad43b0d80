"""The noise table and the step: closed forms, properties, and diffusers' schedulers as oracle."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler
from hypothesis import given
from hypothesis import strategies as st

from diffedit.algorithm.schedule import SMALLEST_ABAR, Schedule, timestep_tensors
from engine.errors import CheckpointError

BASE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
SD15 = {**BASE, "steps_offset": 1, "set_alpha_to_one": False}
SD21 = {**SD15, "prediction_type": "v_prediction"}
ZERO_SNR = {
    **BASE,
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "rescale_betas_zero_snr": True,
    "set_alpha_to_one": True,
}
CONFIGS = {"sd15": SD15, "sd21": SD21, "zero-snr": ZERO_SNR}


def oracle(config: dict[str, Any], steps: int) -> DDIMScheduler:
    scheduler = DDIMScheduler(**config, clip_sample=False)
    scheduler.set_timesteps(steps)
    return scheduler


def latent(seed: int = 0) -> torch.Tensor:
    return torch.randn((4, 8, 8), generator=torch.Generator().manual_seed(seed))


def test_the_grid_of_stable_diffusion_is_the_published_one() -> None:
    schedule = Schedule.from_config(SD15, 50)
    assert schedule.timesteps[1:4] == (1, 21, 41)
    assert schedule.timesteps[25] == 481 and schedule.timesteps[50] == 981
    assert schedule.abar[25] == pytest.approx(0.3023, abs=1e-4)
    assert schedule.steps == 50 and schedule.level(0.5) == 25 and schedule.level(0.8) == 40


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("steps", [4, 10, 50])
def test_the_table_equals_diffusers(name: str, steps: int) -> None:
    schedule, scheduler = Schedule.from_config(CONFIGS[name], steps), oracle(CONFIGS[name], steps)
    assert list(schedule.timesteps[1:]) == sorted(scheduler.timesteps.tolist())
    theirs = scheduler.alphas_cumprod[list(schedule.timesteps[1:])]
    torch.testing.assert_close(torch.tensor(schedule.abar[1:]), theirs, atol=1e-6, rtol=0)
    assert schedule.abar[0] == pytest.approx(float(scheduler.final_alpha_cumprod), abs=1e-6)


@pytest.mark.parametrize("name", CONFIGS)
def test_decoding_steps_equal_diffusers(name: str) -> None:
    schedule, scheduler = Schedule.from_config(CONFIGS[name], 10), oracle(CONFIGS[name], 10)
    for i in range(10, 0, -1):
        x, out = latent(i), latent(100 + i)
        theirs = scheduler.step(out, schedule.timesteps[i], x).prev_sample
        ours = schedule.step(x, schedule.eps(out, x, i), i, i - 1)
        # at zero terminal SNR eps no longer determines x_0; float32 keeps 1e-3 of it there
        near = 2e-3 if schedule.abar[i] == SMALLEST_ABAR else 2e-6
        torch.testing.assert_close(ours, theirs, atol=near, rtol=near)


@pytest.mark.parametrize("name", ["sd15", "sd21"])
def test_encoding_steps_equal_diffusers(name: str) -> None:
    schedule = Schedule.from_config(CONFIGS[name], 10)
    inverse = DDIMInverseScheduler(**CONFIGS[name], clip_sample=False)
    inverse.set_timesteps(10)
    for i in range(10):
        x, out = latent(i), latent(100 + i)
        theirs = inverse.step(out, schedule.timesteps[i + 1], x).prev_sample
        ours = schedule.step(x, schedule.eps(out, x, i), i, i + 1)
        torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=2e-6)


@given(
    name=st.sampled_from(["sd15", "sd21"]),
    steps=st.integers(1, 60),
    where=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_a_step_there_and_back_is_nothing(
    name: str, steps: int, where: tuple[float, float]
) -> None:
    schedule = Schedule.from_config(CONFIGS[name], steps)
    i, j = (round(w * steps) for w in where)
    x, eps = latent(1), latent(2)
    there = schedule.step(x, eps, i, j)
    torch.testing.assert_close(schedule.step(there, eps, j, i), x, atol=2e-4, rtol=1e-4)


@given(steps=st.integers(1, 50), level=st.floats(0, 1))
def test_noise_and_prediction_types_agree(steps: int, level: float) -> None:
    """The eps that was mixed in is the eps every prediction type gives back."""
    x0, eps = latent(3), latent(4)
    for kind in ("epsilon", "v_prediction", "sample"):
        schedule = Schedule.from_config({**SD15, "prediction_type": kind}, steps)
        i = max(1, round(level * steps))
        x, sigma, root = schedule.noise(x0, eps, i), schedule.sigma(i), schedule.abar[i] ** 0.5
        raw = {"epsilon": eps, "v_prediction": root * eps - sigma * x0, "sample": x0}[kind]
        torch.testing.assert_close(schedule.eps(raw, x, i), eps, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(
            schedule.step(x, eps, i, 0), schedule.noise(x0, eps, 0), atol=2e-4, rtol=1e-4
        )


def test_a_sample_prediction_is_defined_at_the_clean_level() -> None:
    config = {**SD15, "prediction_type": "sample", "set_alpha_to_one": True}
    schedule = Schedule.from_config(config, 10)
    assert schedule.sigma(0) == 0
    assert schedule.eps(latent(0), latent(1), 0).isfinite().all()


def test_a_table_goes_down_and_a_zero_snr_one_ends_above_zero() -> None:
    for config in CONFIGS.values():
        abar = Schedule.from_config(config, 50).abar
        assert all(a > b for a, b in itertools.pairwise(abar))
    assert Schedule.from_config(ZERO_SNR, 50).abar[-1] == SMALLEST_ABAR


def test_levels_are_rounded_and_never_clean() -> None:
    schedule = Schedule.from_config(SD15, 50)
    assert schedule.level(0.58) == 29  # int(50 * 0.58) is 28
    assert schedule.level(0.001) == 1 and schedule.level(1.0) == 50


@pytest.mark.parametrize(
    "wrong",
    [{"beta_schedule": "sigmoid"}, {"timestep_spacing": "karras"}, {"prediction_type": "flow"}],
)
def test_unknown_configs_are_named(wrong: dict[str, str]) -> None:
    with pytest.raises(CheckpointError, match=next(iter(wrong.values()))):
        Schedule.from_config({**SD15, **wrong}, 10)


def test_more_steps_than_training_timesteps_are_refused() -> None:
    with pytest.raises(ValueError, match=r"1\.\.1000"):
        Schedule.from_config(SD15, 1001)


@pytest.mark.parametrize("name", ["linear", "squaredcos_cap_v2"])
def test_other_beta_schedules_equal_diffusers(name: str) -> None:
    config = {"beta_schedule": name, "timestep_spacing": "linspace", "num_train_timesteps": 1000}
    schedule, scheduler = Schedule.from_config(config, 20), oracle(config, 20)
    assert list(schedule.timesteps[1:]) == sorted(scheduler.timesteps.tolist())
    theirs = scheduler.alphas_cumprod[list(schedule.timesteps[1:])]
    torch.testing.assert_close(torch.tensor(schedule.abar[1:]), theirs, atol=1e-6, rtol=0)


def test_timesteps_move_to_a_device_once() -> None:
    schedule = Schedule.from_config(SD15, 5)
    first = timestep_tensors(schedule, torch.device("cpu"))
    assert timestep_tensors(schedule, torch.device("cpu")) is first
    assert [float(t) for t in first] == list(schedule.timesteps)
