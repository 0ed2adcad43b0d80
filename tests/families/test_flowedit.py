"""FlowEdit with DiffEdit's mask equals its reference, on PyTorch and ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffedit import DiffEditPipeline, EditRequest
from diffedit.algorithm import flowedit_reference
from diffedit.algorithm.plan import EditPlan
from diffedit.algorithm.reference_setup import Reference
from diffedit.preprocessor import schedule_for
from diffedit.presets import resolve
from diffedit.request import InvalidRequest, parameters
from engine.backends.torch.networks import TorchNetworks
from engine.checkpoint import Checkpoint
from engine.errors import Cancelled
from engine.models import FlowEditDefaults, flux, stable_diffusion_3
from tests.families.conftest import FamilyUnderTest
from tests.families.references import SIZE, TEXTS, by_reference
from tests.shared import Folders

KINDS = ("tiny-sd3", "tiny-flux", "tiny-schnell")
OPTIONS: dict[str, Any] = {
    "method": "flowedit",
    "preset": "paper",
    "num_inference_steps": 5,
    "num_maps_per_mask": 2,
    "mask_thresholding_ratio": 2.0,
    "seed": 2,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "published": {},
    "averaged": {"n_max": 4, "n_avg": 2, "guidance_scale": 2.5, "source_guidance_scale": 1.5},
    "last levels": {"n_max": 4, "n_min": 2, "guidance_scale": 2.0},
    "only the target is guided": {"strength": 0.5, "source_guidance_scale": 1.0},
    "the default's mask": {"preset": "balanced", "n_max": 4},
    "only ordinary steps": {"n_max": 3, "n_min": 3},
}


@pytest.fixture(scope="module", params=KINDS)
def flow_family(request: pytest.FixtureRequest, folders: Folders) -> FamilyUnderTest:
    from diffedit.conditioning.conditioner import Conditioner

    folder = folders(request.param)
    checkpoint = Checkpoint.open(folder)
    networks = TorchNetworks.open(checkpoint, dtype="fp32", device="cpu")
    return FamilyUnderTest(request.param, checkpoint, networks, Conditioner(checkpoint), None)


@pytest.fixture(scope="module")
def pipe(flow_family: FamilyUnderTest) -> Any:
    networks = TorchNetworks.open(flow_family.checkpoint, dtype="fp32", device="cpu")
    with DiffEditPipeline(flow_family.checkpoint, networks, size=SIZE) as pipe:
        yield pipe


def expected(
    family: FamilyUnderTest, photo: Image.Image, *, all_white: bool = False, **options: Any
) -> Reference:
    """The edit of the photograph by plain loops."""
    request = EditRequest(b"", TEXTS["target"], **{**OPTIONS, **options})
    request = resolve(request, family.checkpoint.family.defaults)
    return by_reference(flowedit_reference.edit, family, photo, request, all_white=all_white)


def run(pipe: DiffEditPipeline, photo: Image.Image, **options: Any) -> Any:
    chosen = {**OPTIONS, **options}
    return pipe(photo, TEXTS["target"], TEXTS["source"], TEXTS["negative"], **chosen)


def check(result: Any, wanted: Reference, photo: Image.Image, background: float = 1e-6) -> None:
    """`background`: how far the encoders of the two runtimes may differ."""
    assert 0 < wanted.mask.sum() < wanted.mask.numel()
    assert (result.latent_mask == wanted.mask.numpy()).all()
    np.testing.assert_allclose(result.latents, wanted.latents[0].numpy(), atol=2e-3)
    inside = np.broadcast_to(wanted.mask.numpy(), result.latents.shape)
    x0 = wanted.x0[0].numpy()
    assert np.abs(result.latents - x0)[inside].max() > 0.05
    np.testing.assert_allclose(result.latents[~inside], x0[~inside], atol=background)
    outside = np.asarray(result.mask) == 0
    assert (np.asarray(result.image)[outside] == np.asarray(photo)[outside]).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_edit_equals_the_reference(
    flow_family: FamilyUnderTest, pipe: DiffEditPipeline, variant: str, photo: Image.Image
) -> None:
    options = VARIANTS[variant]
    result = run(pipe, photo, **options)
    wanted = expected(flow_family, photo, **options)
    np.testing.assert_allclose(result.heatmap, wanted.heat.numpy(), atol=1e-3)
    check(result, wanted, photo)


def test_a_white_mask_gives_the_papers_method(
    flow_family: FamilyUnderTest, pipe: DiffEditPipeline, photo: Image.Image
) -> None:
    """The reference is then algorithm 1 alone, wherever the photograph is."""
    white = Image.new("L", photo.size, 255)
    result = run(pipe, photo, mask_image=white, n_max=4, n_avg=2)
    wanted = expected(flow_family, photo, all_white=True, n_max=4, n_avg=2)
    shown = result.latent_mask
    np.testing.assert_allclose(
        result.latents[:, shown], wanted.latents[0].numpy()[:, shown], atol=2e-3
    )


def test_the_flow_runs_the_rows_of_its_plan(
    flow_family: FamilyUnderTest, pipe: DiffEditPipeline, photo: Image.Image
) -> None:
    options = {"n_max": 4, "n_min": 1, "n_avg": 2}
    seen: list[tuple[str, int, int]] = []
    result = run(pipe, photo, **options, callback=lambda *state: seen.append(state))
    family = flow_family.checkpoint.family
    request = resolve(EditRequest(b"", "sky", **{**OPTIONS, **options}), family.defaults)
    schedule = schedule_for(flow_family.checkpoint, 5, SIZE)
    plan = EditPlan.for_edit(request, schedule, embeds_guidance=family.embeds_guidance)
    a_text = 2 if flow_family.kind == "tiny-sd3" else 1
    assert plan.rows == 2 * 2 + 3 * 2 * 2 * a_text + 1 * a_text
    assert result.stats.rows[flow_family.checkpoint.names.denoiser] == plan.rows
    assert seen[-1] == ("decode", plan.rows, plan.rows) and seen[0][0] == "mask"


def test_previews_end_with_the_result(
    flow_family: FamilyUnderTest, pipe: DiffEditPipeline, photo: Image.Image
) -> None:
    request = EditRequest(photo, "sky", "a red ball", **OPTIONS, n_max=3, n_min=1)
    seen: list[Any] = []
    handle = pipe.submit(request, on_preview=lambda latent, x0: seen.append(latent))
    result = handle.result()
    assert len(seen) == 3
    np.testing.assert_allclose(seen[-1].numpy(), result.latents, atol=1e-5)


def test_an_edit_can_be_cancelled(pipe: DiffEditPipeline, photo: Image.Image) -> None:
    handles: list[Any] = []

    def cancel(stage: str, done: int, total: int) -> None:
        if stage == "decode" and done < total and handles:
            handles[0].cancel()

    options = {**OPTIONS, "num_inference_steps": 1000, "n_max": 1000}
    handles.append(pipe.submit(EditRequest(photo, "sky", "a ball", **options), callback=cancel))
    with pytest.raises(Cancelled):
        handles[0].result()


def test_equal_texts_return_the_photograph(pipe: DiffEditPipeline, photo: Image.Image) -> None:
    result = pipe(photo, "sky", "sky", **OPTIONS)
    assert (np.asarray(result.image) == np.asarray(photo)).all()
    assert any("nothing to edit" in warning for warning in result.warnings)


def test_a_result_repeats_from_its_parameters(pipe: DiffEditPipeline, photo: Image.Image) -> None:
    result = run(pipe, photo, strength=0.6)
    assert "strength" not in result.parameters and result.parameters["n_max"] == 3
    again = pipe.submit(EditRequest.from_parameters(photo, result.parameters)).result()
    assert (again.latents == result.latents).all() and again.parameters == result.parameters


def test_models_of_diffusion_refuse_it(tiny: Path, photo: Image.Image) -> None:
    with (
        DiffEditPipeline.from_pretrained(tiny, device="cpu", dtype="fp32") as pipe,
        pytest.raises(InvalidRequest, match="trained by flow matching") as caught,
    ):
        pipe(photo, "sky", **OPTIONS)
    assert caught.value.field == "method"


@pytest.mark.slow
def test_an_edit_on_onnxruntime_equals_the_reference(
    flow_family: FamilyUnderTest, photo: Image.Image, onnx_engines: Folders
) -> None:
    engines = onnx_engines(flow_family.kind)
    with DiffEditPipeline.from_pretrained(
        flow_family.folder, backend="onnxruntime", engines=engines, device="cpu"
    ) as pipe:
        result = run(pipe, photo, n_max=4, n_min=1)
    check(result, expected(flow_family, photo, n_max=4, n_min=1), photo, background=1e-5)


def test_published_options() -> None:
    """The paper's section 5: 33 of 50 levels for SD 3, 24 of 28 for FLUX.1 dev."""
    assert FlowEditDefaults(50, 33, 3.5, 13.5) == stable_diffusion_3.FLOWEDIT
    assert FlowEditDefaults(28, 24, 1.5, 5.5) == flux.FLOWEDIT


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "of another method": ({"n_max": 3}, "option of method 'flowedit'"),
    "twice": ({"method": "flowedit", "n_max": 3, "strength": 0.5}, "leave out one"),
    "range": ({"method": "flowedit", "n_avg": 0}, "n_avg is 0"),
    "type": ({"method": "flowedit", "source_guidance_scale": "3"}, "source_guidance_scale"),
}


@pytest.mark.parametrize("case", BAD)
def test_options_that_contradict_are_refused(case: str) -> None:
    options, words = BAD[case]
    with pytest.raises(InvalidRequest, match=words):
        EditRequest(b"", "sky", **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n_max": 6}, "n_max is 6, but the schedule has 5 levels"),
        ({"n_max": 2, "n_min": 3}, "n_min is 3, but the edit begins at level 2"),
    ],
)
def test_levels_outside_the_schedule_are_refused(
    pipe: DiffEditPipeline, photo: Image.Image, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words):
        run(pipe, photo, **options)


def test_records_name_only_the_options_of_their_method() -> None:
    assert "n_max" not in parameters(EditRequest(b"", "sky"))
    assert "n_max" in parameters(EditRequest(b"", "sky", method="flowedit"))
