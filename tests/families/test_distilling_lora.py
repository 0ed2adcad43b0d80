"""The scheduler of a LoRA that distils the model, which the user names with `--scheduler`."""

from __future__ import annotations

from pathlib import Path

import pytest
from diffusers import DiffusionPipeline, EulerDiscreteScheduler, LCMScheduler, TCDScheduler
from PIL import Image
from safetensors.torch import save_file

from demo import random_checkpoint
from diffedit import DiffEditPipeline
from diffedit.algorithm.schedule import Schedule
from engine.checkpoint import Checkpoint
from engine.derived.additions import Additions
from engine.errors import CheckpointError
from engine.hub import find_checkpoint
from engine.loader import quiet
from engine.models.distilling_lora import SCHEDULERS
from tests.engine.lora_files import ATTENTION, pair
from tests.shared import Folders

# diffusers calls numpy in a way that numpy 2 warns about
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
CLASSES = {
    "lcm": (LCMScheduler, {}),
    "tcd": (TCDScheduler, {}),
    "trailing": (EulerDiscreteScheduler, {"timestep_spacing": "trailing"}),
}
"""What a diffusers user writes: pipe.scheduler = CLASS.from_config(pipe.scheduler.config, ...)."""


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
@pytest.mark.parametrize("kind", ["tiny", "tiny-sdxl"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_timesteps_equal_diffusers(name: str, kind: str, steps: int, folders: Folders) -> None:
    checkpoint = find_checkpoint(folders(kind), additions=Additions(scheduler=name))
    assert checkpoint.family.defaults.few_steps
    assert checkpoint.family.defaults.guidance_scale == 1
    with quiet():
        base = DiffusionPipeline.from_pretrained(folders(kind), local_files_only=True)
    scheduler_class, options = CLASSES[name]
    scheduler = scheduler_class.from_config(base.scheduler.config, **options)
    scheduler.set_timesteps(steps)
    schedule = Schedule.from_config(checkpoint.scheduler_config, steps)
    assert list(schedule.timesteps[1:]) == [float(t) for t in scheduler.timesteps.tolist()[::-1]]
    plain = find_checkpoint(folders(kind))
    assert plain.family.defaults.steps == 50
    assert plain.digests() == checkpoint.digests()  # engines serve both


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("tiny", "ddim", "no scheduler 'ddim'; use one of lcm, tcd, trailing"),
        ("tiny-flux", "lcm", "trained by flow matching"),
    ],
)
def test_what_cannot_be(kind: str, name: str, words: str, folders: Folders) -> None:
    with pytest.raises(CheckpointError, match=words):
        find_checkpoint(folders(kind), additions=Additions(scheduler=name))


@pytest.mark.parametrize(
    "change", [{"prediction_type": "v_prediction"}, {"rescale_betas_zero_snr": True}]
)
def test_models_that_such_loras_do_not_fit(change: dict[str, object], tmp_path: Path) -> None:
    folder = random_checkpoint.make(tmp_path / "v", "tiny", scheduler=change, weights=False)
    with pytest.raises(CheckpointError, match="trained otherwise"):
        Checkpoint.open(folder).with_scheduler("trailing")


def lora(folder: Path, name: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(pair(f"{ATTENTION}.to_q"), path)
    return path


@pytest.mark.parametrize(
    ("file", "suggested"),
    [
        ("lcm-lora-sdv1-5.safetensors", "lcm"),
        ("SDXL_Lightning_4step.safetensors", "trailing"),
        ("Hyper-SD15-8steps-lora.safetensors", "trailing"),
        ("tcd_sd15.safetensors", "tcd"),
        ("my_dmd2_lora.safetensors", "lcm"),
        ("few-steps/pytorch_lora_weights.safetensors", "lcm"),
        ("models--me--tcd-lora/snapshots/1f0c/pytorch_lora_weights.safetensors", "tcd"),
        ("turbo/style.safetensors", None),
        ("calcm-style.safetensors", None),
        ("turbofan.safetensors", None),
    ],
)
def test_a_lora_that_looks_distilling(
    file: str, suggested: str | None, tiny: Path, tmp_path: Path
) -> None:
    with DiffEditPipeline.from_pretrained(tiny, lora=[lora(tmp_path, file)]) as pipe:
        said = [notice for notice in pipe.warnings if notice.code == "distilling_lora"]
    assert len(said) == (suggested is not None)
    assert all(f"scheduler='{suggested}'" in notice for notice in said)


def test_instant_takes_the_published_factor(tiny: Path, tmp_path: Path) -> None:
    """A distilling LoRA makes `instant` what it is for distilled checkpoints, without a warning."""
    picture = Image.new("RGB", (64, 64), "red")
    texts = ("a green cube", "a red ball")
    file = lora(tmp_path, "few.safetensors")
    with DiffEditPipeline.from_pretrained(tiny, lora=[file], scheduler="lcm") as pipe:
        result = pipe(picture, *texts, preset="instant")
        assert not pipe.warnings
    assert result.parameters["step_scale"] == 1
    assert "not_distilled" not in [notice.code for notice in result.warnings]
