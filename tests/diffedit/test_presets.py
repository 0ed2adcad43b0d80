"""Defaults: the preset's, then the model family's; and what a record keeps of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from PIL import Image

from diffedit import DiffEditPipeline, EditRequest
from diffedit.method_options import OWNERS, has_option
from diffedit.presets import BY_MODEL, DECIDED, PRESETS, PresetName, resolve
from diffedit.request import PARAMETERS, RANGES, InvalidRequest, parameters
from engine.backends.torch.networks import TorchNetworks
from engine.checkpoint import Checkpoint
from engine.models import FEW_STEPS, Defaults, ModelFamily
from engine.models.flux import Flux
from engine.models.sdxl import StableDiffusionXL
from engine.models.stable_diffusion import StableDiffusion
from engine.models.stable_diffusion_3 import StableDiffusion3
from tests.shared import Folders

SD = Defaults()
PAPER = {
    "num_inference_steps": 50,
    "strength": 0.8,
    "guidance_scale": 7.5,
    "num_maps_per_mask": 10,
    "mask_encode_strength": 0.5,
    "mask_thresholding_ratio": 3.0,
    "guidance_interval": [0.0, 1.0],
    "inversion_stride": 1,
    "mask_tolerance": 0.0,
}
"""What the program did before there were presets."""
BALANCED = PAPER | {
    "preset": "balanced",
    "num_inference_steps": 20,
    "num_maps_per_mask": 3,
    "guidance_interval": [0.533333, 1.0],
    "inversion_stride": 3,
    "mask_tolerance": 0.1,
    "mask_cleaning": "edges",
}


def request(**options: Any) -> EditRequest:
    return EditRequest(b"", "a pear", **options)


def test_the_paper_preset_is_the_paper() -> None:
    used = parameters(resolve(request(preset="paper"), SD))
    assert {name: used[name] for name in PAPER} == PAPER
    assert used["preset"] == "paper"


def test_balanced_is_the_default() -> None:
    used = parameters(resolve(request(), SD))
    assert used == parameters(resolve(request(preset="balanced"), SD))
    assert {name: used[name] for name in BALANCED} == BALANCED


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("family", [SD, FEW_STEPS, Defaults(28, 3.5, "embedded")], ids=repr)
def test_a_resolved_request_is_complete_and_stays(preset: PresetName, family: Defaults) -> None:
    once = resolve(request(preset=preset), family)
    assert None not in parameters(once).values()
    assert parameters(resolve(once, SD)) == parameters(once)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_option_overrides_the_preset(preset: PresetName) -> None:
    method = PRESETS[preset].method
    names = [name for name in DECIDED if has_option(method, name)]
    own: dict[str, Any] = {name: RANGES[name].high for name in names if name in RANGES}
    used = parameters(resolve(request(preset=preset, **own), SD))
    assert {name: used[name] for name in own} == own


def test_the_options_of_presets_are_those_that_may_be_none() -> None:
    defaults = {f.name: f.default for f in dataclasses.fields(EditRequest)}
    assert {name for name in PARAMETERS if defaults[name] is None} == set(DECIDED)
    options = PRESETS["paper"].options
    assert {*BY_MODEL, "guidance_interval", *options, "method", *OWNERS} == set(DECIDED)


@pytest.mark.parametrize(
    ("model", "balanced", "draft"),
    [(50, 20, 10), (100, 40, 20), (40, 16, 10), (20, 10, 10), (10, 10, 10), (8, 8, 8), (1, 1, 1)],
)
def test_no_preset_goes_below_ten_steps_or_the_models_number(
    model: int, balanced: int, draft: int
) -> None:
    family = Defaults(steps=model)
    found = [resolve(request(preset=p), family).num_inference_steps for p in ("balanced", "draft")]
    assert found == [balanced, draft]
    paper = resolve(request(preset="paper"), family)
    assert paper.num_inference_steps == model
    for preset in ("balanced", "draft"):
        used = resolve(request(preset=preset), family)
        assert used.inversion_stride <= max(1, used.num_inference_steps // 3)


def test_every_preset_but_the_papers_cleans_the_mask() -> None:
    found = {preset: resolve(request(preset=preset), SD).mask_cleaning for preset in PRESETS}
    assert found == {"paper": "none", "balanced": "edges", "draft": "edges", "instant": "edges"}


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="There is no preset 'fast'; use one of paper"):
        request(preset="fast")


EULER = {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"}
"""As in SD-Turbo and Lightning."""
FAMILIES: dict[str, tuple[ModelFamily, Defaults]] = {
    "sd": (StableDiffusion({"scheduler": {"_class_name": "PNDMScheduler"}}), SD),
    "sd-turbo": (StableDiffusion({"scheduler": EULER}), FEW_STEPS),
    "zero snr": (StableDiffusion({"scheduler": {**EULER, "rescale_betas_zero_snr": True}}), SD),
    "v": (StableDiffusion({"scheduler": {**EULER, "prediction_type": "v_prediction"}}), SD),
    "ddim": (StableDiffusion({"scheduler": {**EULER, "_class_name": "DDIMScheduler"}}), SD),
    "sdxl": (
        StableDiffusionXL({"scheduler": {**EULER, "timestep_spacing": "leading"}}),
        Defaults(50, 5.0),
    ),
    "sdxl-turbo": (
        StableDiffusionXL(
            {"scheduler": {**EULER, "_class_name": "EulerAncestralDiscreteScheduler"}}
        ),
        FEW_STEPS,
    ),
    "lcm": (StableDiffusionXL({"scheduler": {"_class_name": "LCMScheduler"}}), FEW_STEPS),
    "sd3": (StableDiffusion3({"transformer": {"qk_norm": None}}), Defaults(28, 7.0)),
    "sd3.5-large": (StableDiffusion3({"transformer": {"qk_norm": "rms_norm"}}), Defaults(28, 3.5)),
    "sd3.5-medium": (
        StableDiffusion3({"transformer": {"qk_norm": "rms_norm", "dual_attention_layers": [0, 1]}}),
        Defaults(40, 4.5),
    ),
    "flux-dev": (
        Flux(
            {"transformer": {"guidance_embeds": True}, "scheduler": {"use_dynamic_shifting": True}}
        ),
        Defaults(28, 3.5, "embedded"),
    ),
    "flux-schnell": (
        Flux({"transformer": {}, "scheduler": {"use_dynamic_shifting": False}}),
        FEW_STEPS,
    ),
    "flux de-distilled": (
        Flux({"transformer": {}, "scheduler": {"use_dynamic_shifting": True}}),
        Defaults(28, 3.5),
    ),
}
"""The configs that tell published checkpoints apart, and how their publishers sample them."""


@pytest.mark.parametrize(("family", "expected"), FAMILIES.values(), ids=FAMILIES)
def test_the_defaults_of_published_checkpoints(family: ModelFamily, expected: Defaults) -> None:
    assert dataclasses.replace(family.defaults, flowedit=None) == expected


def test_no_guidance_is_one_for_distilled_models() -> None:
    assert resolve(request(guidance_scale=0), FEW_STEPS).guidance_scale == 1
    assert resolve(request(guidance_scale=0), SD).guidance_scale == 0
    assert resolve(request(guidance_scale=2), FEW_STEPS).guidance_scale == 2


@pytest.fixture
def schnell(folders: Folders) -> DiffEditPipeline:
    checkpoint = Checkpoint.open(folders("tiny-schnell"))
    return DiffEditPipeline(
        checkpoint, TorchNetworks.open(checkpoint, dtype="fp32", device="cpu"), size=(64, 64)
    )


def test_guidance_on_a_distilled_model_is_a_warning(schnell: DiffEditPipeline) -> None:
    photo = Image.new("RGB", (64, 64))
    with schnell as pipe:
        plain = pipe(photo, "a pear", "a cup", method="sdedit")
        guided = pipe(photo, "a pear", "a cup", method="sdedit", guidance_scale=3.0)
    assert plain.parameters["num_inference_steps"] == 4 and plain.stats.rows["transformer"] == 3
    assert guided.stats.rows["transformer"] == 4  # one of three steps is guided
    (warning,) = set(guided.warnings) - set(plain.warnings)
    assert "distilled" in warning and "guidance_scale=3 " in warning
