"""The preset instant: ChordEdit with DiffEdit's mask equals its reference, in 5 rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffedit import DiffEditPipeline, EditRequest
from diffedit.algorithm import chordedit_reference
from diffedit.algorithm.plan import EditPlan, Stage
from diffedit.algorithm.reference_setup import Reference
from diffedit.conditioning.conditioner import Conditioner
from diffedit.preprocessor import schedule_for
from diffedit.presets import resolve
from diffedit.request import InvalidRequest
from engine.backends.torch.networks import TorchNetworks
from engine.checkpoint import Checkpoint
from engine.models import FEW_STEPS, Defaults
from tests.families.conftest import FamilyUnderTest
from tests.families.references import SIZE, TEXTS, by_reference
from tests.shared import Folders

KINDS = ("tiny", "tiny-turbo", "tiny-sdxl-turbo", "tiny-lcm", "tiny-schnell")
OPTIONS: dict[str, Any] = {"preset": "instant", "mask_thresholding_ratio": 2.0, "seed": 2}
VARIANTS: dict[str, dict[str, Any]] = {
    "published": {},
    "no refining": {"refining_rows": 0, "step_scale": 1.25, "mask_cleaning": "none"},
    "cleaned": {"mask_cleaning": "clean", "mask_threshold": 0.4, "mask_dilation": 1},
    "two refining rows": {"refining_rows": 2, "strength": 0.7},
    "averaged and guided": {"num_maps_per_mask": 3, "guidance_scale": 2.0},
}


@pytest.fixture(scope="module", params=KINDS)
def family(request: pytest.FixtureRequest, folders: Folders) -> FamilyUnderTest:
    folder = folders(request.param)
    checkpoint = Checkpoint.open(folder)
    networks = TorchNetworks.open(checkpoint, dtype="fp32", device="cpu")
    return FamilyUnderTest(request.param, checkpoint, networks, Conditioner(checkpoint), None)


@pytest.fixture(scope="module")
def pipe(family: FamilyUnderTest) -> Iterator[DiffEditPipeline]:
    networks = TorchNetworks.open(family.checkpoint, dtype="fp32", device="cpu")
    with DiffEditPipeline(family.checkpoint, networks, size=SIZE) as pipe:
        yield pipe


def resolved(family: FamilyUnderTest, **options: Any) -> EditRequest:
    request = EditRequest(b"", TEXTS["target"], **{**OPTIONS, **options})
    return resolve(request, family.checkpoint.family.defaults)


def expected(family: FamilyUnderTest, photo: Image.Image, **options: Any) -> Reference:
    """The edit of the photograph by plain loops."""
    return by_reference(chordedit_reference.edit, family, photo, resolved(family, **options))


def run(pipe: DiffEditPipeline, photo: Image.Image, **options: Any) -> Any:
    chosen = {**OPTIONS, **options}
    return pipe(photo, TEXTS["target"], TEXTS["source"], TEXTS["negative"], **chosen)


def check(result: Any, wanted: Reference, photo: Image.Image, background: float = 1e-6) -> None:
    """`background`: how far the encoders of the two runtimes may differ."""
    assert 0 < wanted.mask.sum() < wanted.mask.numel()
    assert (result.latent_mask == wanted.mask.numpy()).all()
    scale = max(1.0, float(wanted.latents.abs().max()))
    np.testing.assert_allclose(result.latents, wanted.latents[0].numpy(), atol=1e-3 * scale)
    inside = np.broadcast_to(wanted.mask.numpy(), result.latents.shape)
    x0 = wanted.x0[0].numpy()
    assert np.abs(result.latents - x0)[inside].max() > 0.05
    np.testing.assert_allclose(result.latents[~inside], x0[~inside], atol=background)
    outside = np.asarray(result.mask) == 0
    assert (np.asarray(result.image)[outside] == np.asarray(photo)[outside]).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_edit_equals_the_reference(
    family: FamilyUnderTest, pipe: DiffEditPipeline, variant: str, photo: Image.Image
) -> None:
    options = VARIANTS[variant]
    result, wanted = run(pipe, photo, **options), expected(family, photo, **options)
    np.testing.assert_allclose(result.heatmap, wanted.heat.numpy(), atol=1e-3)
    check(result, wanted, photo)


def test_an_edit_takes_five_rows_in_two_calls(
    family: FamilyUnderTest, pipe: DiffEditPipeline, photo: Image.Image
) -> None:
    pipe.cache_clear()
    seen: list[tuple[str, int, int]] = []
    result = run(pipe, photo, callback=lambda *state: seen.append(state))
    denoiser = family.checkpoint.names.denoiser
    assert result.stats.rows[denoiser] == 5 and result.stats.calls[denoiser] == 2
    assert result.stats.rows[family.checkpoint.names.image_encoder] == 1
    assert seen[0][0] == "mask" and seen[-1] == ("decode", 5, 5)
    assert result.parameters["method"] == "chordedit" and result.parameters["refining_rows"] == 1


def test_the_mask_alone_is_the_mask_of_the_edit(pipe: DiffEditPipeline, photo: Image.Image) -> None:
    found = pipe.generate_mask(photo, TEXTS["target"], TEXTS["source"], **OPTIONS)
    result = run(pipe, photo)
    assert (found.latent_mask == result.latent_mask).all() and found.latent_mask.any()
    np.testing.assert_allclose(found.heatmap, result.heatmap, atol=1e-6)


def test_a_users_mask_is_used(pipe: DiffEditPipeline, photo: Image.Image) -> None:
    mask = Image.new("L", photo.size)
    mask.paste(255, (20, 16, 60, 50))
    result = run(pipe, photo, mask_image=mask)
    changed = (np.asarray(result.image) != np.asarray(photo)).any(-1)
    assert changed.any() and not changed[np.asarray(mask) == 0].any()


def test_equal_texts_return_the_photograph(pipe: DiffEditPipeline, photo: Image.Image) -> None:
    result = pipe(photo, "sky", "sky", **OPTIONS)
    assert (np.asarray(result.image) == np.asarray(photo)).all()
    assert any("nothing to edit" in warning for warning in result.warnings)


def test_a_model_that_is_not_distilled_is_warned_of(
    family: FamilyUnderTest, pipe: DiffEditPipeline, photo: Image.Image
) -> None:
    warned = any("does not look distilled" in warning for warning in run(pipe, photo).warnings)
    assert warned == (family.kind == "tiny")


def test_a_result_repeats_from_its_parameters(pipe: DiffEditPipeline, photo: Image.Image) -> None:
    result = run(pipe, photo)
    again = pipe.submit(EditRequest.from_parameters(photo, result.parameters)).result()
    assert (again.latents == result.latents).all() and again.parameters == result.parameters
    assert result.parameters["preset"] == "instant"


@pytest.mark.slow
@pytest.mark.parametrize("family", ["tiny-turbo", "tiny-schnell"], indirect=True)
def test_an_edit_on_onnxruntime_equals_the_reference(
    family: FamilyUnderTest, photo: Image.Image, onnx_engines: Folders
) -> None:
    engines = onnx_engines(family.kind)
    with DiffEditPipeline.from_pretrained(
        family.folder, backend="onnxruntime", engines=engines, device="cpu"
    ) as pipe:
        result = run(pipe, photo)
    check(result, expected(family, photo), photo, background=1e-5)


def test_rows_are_counted_once(family: FamilyUnderTest) -> None:
    schedule = schedule_for(family.checkpoint, 20, SIZE)
    plan = EditPlan.for_edit(resolved(family), schedule)
    assert plan.stages[0] == Stage("mask", 1, 4) and plan.field_levels == (18, 15)
    most = EditPlan.for_edit(resolved(family, refining_rows=2, guidance_scale=2.0), schedule)
    assert most.rows == 8 and most.refining_levels == (10, 6)
    assert EditPlan.for_mask(resolved(family), schedule).rows == 4


def test_the_step_is_longer_without_distillation() -> None:
    request = EditRequest(b"", "sky", preset="instant")
    assert resolve(request, FEW_STEPS).step_scale == 1.0
    assert resolve(request, Defaults()).step_scale == 1.5
    assert resolve(request, Defaults()).guidance_scale == 1.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"step_scale": 2.0}, "step_scale is 2.0, but it is an option of method 'chordedit'"),
        ({"preset": "instant", "refining_rows": 3}, "refining_rows is 3"),
        ({"preset": "instant", "step_scale": 0}, "step_scale is 0"),
        ({"preset": "instant", "n_max": 3}, "option of method 'flowedit'"),
    ],
)
def test_options_that_contradict_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        EditRequest(b"", "sky", **options)


def test_a_strength_without_a_second_level_is_refused() -> None:
    request = EditRequest(b"", "sky", preset="instant", strength=0.15)
    with pytest.raises(InvalidRequest, match=r"needs the noise level 0.15 below"):
        resolve(request, FEW_STEPS)
