"""The noise table and the step, compared with closed forms and diffusers' schedulers."""

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
from tests.algorithm.flow_tools import step

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
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}
SD3 = {**FLOW, "shift": 3.0}
FLUX = {
    **FLOW,
    "shift": 3.0,
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}
ALL = CONFIGS | {"sample": {**SD15, "prediction_type": "sample"}, "flow": SD3, "flux": FLUX}


def oracle(config: dict[str, Any], steps: int) -> DDIMScheduler:
    scheduler = DDIMScheduler(**config, clip_sample=False)
    scheduler.set_timesteps(steps)
    return scheduler


def abar(schedule: Schedule) -> torch.Tensor:
    return torch.tensor(schedule.alphas, dtype=torch.float64).square().float()


def latent(seed: int = 0) -> torch.Tensor:
    return torch.randn((4, 8, 8), generator=torch.Generator().manual_seed(seed))


def test_the_grid_of_stable_diffusion_is_the_published_one() -> None:
    schedule = Schedule.from_config(SD15, 50)
    assert schedule.timesteps[1:4] == (1, 21, 41)
    assert schedule.timesteps[25] == 481 and schedule.timesteps[50] == 981
    assert schedule.alphas[25] ** 2 == pytest.approx(0.3023, abs=1e-4)
    assert schedule.steps == 50 and schedule.level(0.5) == 25 and schedule.level(0.8) == 40


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("steps", [4, 10, 50])
def test_the_table_equals_diffusers(name: str, steps: int) -> None:
    schedule, scheduler = Schedule.from_config(CONFIGS[name], steps), oracle(CONFIGS[name], steps)
    assert list(schedule.timesteps[1:]) == sorted(scheduler.timesteps.tolist())
    theirs = scheduler.alphas_cumprod[torch.tensor(schedule.timesteps[1:]).long()]
    torch.testing.assert_close(abar(schedule)[1:], theirs, atol=1e-6, rtol=0)
    assert abar(schedule)[0] == pytest.approx(float(scheduler.final_alpha_cumprod), abs=1e-6)


@pytest.mark.parametrize("name", CONFIGS)
def test_decoding_steps_equal_diffusers(name: str) -> None:
    schedule, scheduler = Schedule.from_config(CONFIGS[name], 10), oracle(CONFIGS[name], 10)
    for i in range(10, 0, -1):
        x, out = latent(i), latent(100 + i)
        theirs = scheduler.step(out, int(schedule.timesteps[i]), x).prev_sample
        ours = step(schedule, out, x, i, i - 1)
        torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("name", ["sd15", "sd21"])
def test_encoding_steps_equal_diffusers(name: str) -> None:
    schedule = Schedule.from_config(CONFIGS[name], 10)
    inverse = DDIMInverseScheduler(**CONFIGS[name], clip_sample=False)
    inverse.set_timesteps(10)
    for i in range(10):
        x, out = latent(i), latent(100 + i)
        theirs = inverse.step(out, int(schedule.timesteps[i + 1]), x).prev_sample
        ours = step(schedule, out, x, i, i + 1)
        torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=2e-6)


@given(
    name=st.sampled_from([*CONFIGS, "sample", "flow", "flux"]),
    steps=st.integers(1, 40),
    where=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_every_prediction_gives_back_what_was_mixed(
    name: str, steps: int, where: tuple[float, float]
) -> None:
    """Split a noisy latent with the true prediction: its x_0 and eps, and a step anywhere."""
    schedule = Schedule.from_config(ALL[name], steps, image_tokens=1024)
    i, j = max(1, round(where[0] * steps)), round(where[1] * steps)
    x0, eps, alpha, sigma = latent(3), latent(4), schedule.alphas[i], schedule.sigmas[i]
    raw = {
        "epsilon": eps,
        "v_prediction": alpha * eps - sigma * x0,
        "sample": x0,
        "flow": eps - x0,
    }[schedule.prediction_type]
    x = schedule.noise(x0, eps, i)
    found_x0, found_eps = schedule.split(raw, x, i)
    torch.testing.assert_close(found_eps, eps, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found_x0, x0, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        step(schedule, raw, x, i, j), schedule.noise(x0, eps, j), atol=1e-4, rtol=1e-4
    )


def test_a_sample_prediction_is_defined_at_the_clean_level() -> None:
    config = {**SD15, "prediction_type": "sample", "set_alpha_to_one": True}
    schedule = Schedule.from_config(config, 10)
    assert schedule.sigmas[0] == 0
    x0, eps = schedule.split(latent(0), latent(1), 0)
    assert torch.equal(x0, latent(1)) and eps.isfinite().all()


def test_alphas_go_down_and_only_epsilon_needs_something_of_x0_at_the_end() -> None:
    for config in ALL.values():
        alphas = Schedule.from_config(config, 50).alphas
        assert all(a > b for a, b in itertools.pairwise(alphas))
    assert Schedule.from_config(ZERO_SNR, 50).alphas[-1] == 0
    epsilon = Schedule.from_config({**ZERO_SNR, "prediction_type": "epsilon"}, 50)
    assert epsilon.alphas[-1] == SMALLEST_ABAR**0.5


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
    theirs = scheduler.alphas_cumprod[torch.tensor(schedule.timesteps[1:]).long()]
    torch.testing.assert_close(abar(schedule)[1:], theirs, atol=1e-6, rtol=0)


def test_timesteps_move_to_a_device_once() -> None:
    schedule = Schedule.from_config(SD15, 5)
    first = timestep_tensors(schedule, torch.device("cpu"))
    assert timestep_tensors(schedule, torch.device("cpu")) is first
    assert [float(t) for t in first] == list(schedule.timesteps)
