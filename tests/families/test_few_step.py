"""Few-step checkpoints: Turbo, Lightning and LCM step as diffusers' own schedulers do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)

from demo.random_checkpoint.kinds import FLOW_SCHEDULER, TURBO_SCHEDULER
from diffedit.algorithm.schedule import Schedule
from diffedit.conditioning.conditioner import Conditioner
from diffedit.preprocessor import schedule_for
from engine.backends.torch.networks import TorchNetworks
from engine.checkpoint import Checkpoint
from engine.loader import quiet
from engine.rows import Row
from tests.algorithm.flow_tools import step
from tests.families.conftest import FamilyUnderTest
from tests.shared import Folders

# diffusers calls numpy in a way that numpy 2 warns about
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
SIZE = (64, 96)
SIGMA_CLASSES = (EulerDiscreteScheduler, EulerAncestralDiscreteScheduler)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 6, 8, 25])
@pytest.mark.parametrize("scheduler_class", [*SIGMA_CLASSES, DDIMScheduler])
def test_trailing_timesteps_equal_diffusers(scheduler_class: type[Any], steps: int) -> None:
    config = {**TURBO_SCHEDULER, "_class_name": scheduler_class.__name__}
    scheduler = scheduler_class.from_config(config)
    scheduler.set_timesteps(steps)
    schedule = Schedule.from_config(config, steps)
    assert list(schedule.timesteps[1:]) == [float(t) for t in scheduler.timesteps.tolist()[::-1]]
    assert schedule.timesteps[-1] == 999


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_eulers_steps_end_at_the_clean_latent(prediction: str, steps: int) -> None:
    """Euler's schedulers ignore set_alpha_to_one: false, which their published configs contain."""
    config = {**TURBO_SCHEDULER, "prediction_type": prediction}
    scheduler = EulerDiscreteScheduler.from_config(config)
    scheduler.set_timesteps(steps)
    schedule = Schedule.from_config(config, steps)
    generator = torch.Generator().manual_seed(steps)
    scaled = torch.randn((4, 8, 8), generator=generator) * scheduler.init_noise_sigma
    for i in range(steps, 0, -1):
        x = scaled * schedule.alphas[i]
        out = torch.randn((4, 8, 8), generator=generator)
        t = scheduler.timesteps[steps - i]
        scheduler.scale_model_input(scaled, t)
        scaled = scheduler.step(out, t, scaled).prev_sample
        ours = step(schedule, out, x, i, i - 1)
        expected = scaled * schedule.alphas[i - 1]
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    assert (schedule.alphas[0], schedule.sigmas[0]) == (1, 0)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_multistep_schedulers_end_clean_too(steps: int) -> None:
    config = {**TURBO_SCHEDULER, "_class_name": "DPMSolverMultistepScheduler"}
    scheduler = DPMSolverMultistepScheduler.from_config(config)
    scheduler.set_timesteps(steps)
    assert float(scheduler.sigmas[-1]) == 0 == Schedule.from_config(config, steps).sigmas[0]


@pytest.mark.parametrize("ends_at_one", [True, False])
def test_ddim_ends_as_its_config_says(ends_at_one: bool) -> None:
    config = {**TURBO_SCHEDULER, "_class_name": "DDIMScheduler", "set_alpha_to_one": ends_at_one}
    scheduler = DDIMScheduler.from_config(config)
    found = Schedule.from_config(config, 4).alphas[0] ** 2
    assert found == pytest.approx(float(scheduler.final_alpha_cumprod), abs=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
@pytest.mark.parametrize("shift", [1.0, 3.0], ids=["schnell", "sd35-turbo"])
def test_few_levels_of_rectified_flow_equal_diffusers(shift: float, steps: int) -> None:
    config = {**FLOW_SCHEDULER, "shift": shift}
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(config)
    scheduler.set_timesteps(steps)
    sigmas = torch.tensor(Schedule.from_config(config, steps).sigmas).flip(0)
    torch.testing.assert_close(sigmas, scheduler.sigmas, atol=1e-6, rtol=1e-5)


@pytest.fixture(scope="module", params=["tiny-turbo", "tiny-sdxl-turbo"])
def turbo(request: pytest.FixtureRequest, folders: Folders) -> FamilyUnderTest:
    folder = folders(request.param)
    checkpoint = Checkpoint.open(folder)
    with quiet():
        theirs = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    theirs.set_progress_bar_config(disable=True)
    networks = TorchNetworks.open(checkpoint, dtype="fp32", device="cpu")
    return FamilyUnderTest(request.param, checkpoint, networks, Conditioner(checkpoint), theirs)


@pytest.mark.parametrize("steps", [1, 4])
@torch.inference_mode()
def test_turbo_pictures_equal_theirs(turbo: FamilyUnderTest, steps: int) -> None:
    """Their pipeline with the checkpoint's own Euler scheduler, without guidance."""
    spec = turbo.checkpoint.spec(turbo.checkpoint.names.denoiser, SIZE).inputs[0]
    noise = torch.randn(spec.shape, generator=torch.Generator().manual_seed(7))
    theirs = turbo.theirs(
        "a red ball",
        height=SIZE[0],
        width=SIZE[1],
        num_inference_steps=steps,
        guidance_scale=0.0,
        latents=noise[None],
        output_type="latent",
    ).images[0]
    schedule = schedule_for(turbo.checkpoint, steps, SIZE)
    last = [torch.tensor(v).float() for v in turbo.checkpoint.family.request_inputs(SIZE, 1.0)]
    x, text = noise * schedule.sigmas[steps], turbo.condition("a red ball")
    for i in range(steps, 0, -1):
        told = (x, torch.tensor(schedule.timesteps[i]), *text, *last)
        (out,) = turbo.rows([Row(turbo.checkpoint.names.denoiser, told)])
        x = step(schedule, out, x, i, i - 1)
    torch.testing.assert_close(x, theirs, atol=1e-4, rtol=1e-4)


def test_lcm_without_a_guidance_scale_would_differ(folders: Folders) -> None:
    """A guard on the oracle tests of LCM: the U-Net answers otherwise at another guidance."""
    checkpoint = Checkpoint.open(folders("tiny-lcm"))
    assert checkpoint.family.embeds_guidance
    assert checkpoint.family.request_inputs(SIZE, 8.5) == (8.5,)
    names = [t.name for t in checkpoint.spec(checkpoint.names.denoiser, SIZE).inputs]
    assert names == ["latent", "timestep", "embedding", "guidance"]
    networks = TorchNetworks.open(checkpoint, dtype="fp32", device="cpu")
    family = FamilyUnderTest("tiny-lcm", checkpoint, networks, Conditioner(checkpoint), None)
    spec = checkpoint.spec(checkpoint.names.denoiser, SIZE).inputs[0]
    told = (torch.ones(spec.shape), torch.tensor(499.0), *family.condition("sky"))
    one, eight = family.rows(
        [Row(checkpoint.names.denoiser, (*told, torch.tensor(g))) for g in (1.0, 8.5)]
    )
    assert (one - eight).abs().max() > 1e-4
