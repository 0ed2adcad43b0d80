"""Every method in every entry point of a pipeline: a result, or an error of one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from diffedit import DiffEditPipeline, EditRequest
from diffedit.request import MASKED_METHODS, METHODS, InvalidRequest
from tests.shared import Folders

TEXTS = ("a blue ball", "a red ball")
FAST = {"preset": "paper", "num_inference_steps": 2, "mask_thresholding_ratio": 1.0}


@pytest.fixture(scope="module", params=["tiny", "tiny-sd3-no-t5"])
def pipeline(request: pytest.FixtureRequest, folders: Folders) -> Iterator[DiffEditPipeline]:
    with DiffEditPipeline.from_pretrained(
        folders(request.param), device="cpu", dtype="fp32"
    ) as pipeline:
        yield pipeline


def options(method: str, pipeline: DiffEditPipeline) -> dict[str, Any]:
    if method == "flowedit" and pipeline.checkpoint.family.defaults.flowedit is None:
        pytest.skip("not applicable: FlowEdit needs a model of rectified flow")
    return {**FAST, "method": method}


@pytest.mark.parametrize("method", METHODS)
def test_the_mask_alone(method: str, pipeline: DiffEditPipeline, photo: Image.Image) -> None:
    chosen = options(method, pipeline)
    if method in MASKED_METHODS:
        found = pipeline.generate_mask(photo, *TEXTS, **chosen)
        whole = pipeline(photo, *TEXTS, **chosen)
        assert found.mask.tobytes() == whole.mask.tobytes()
        return
    with pytest.raises(InvalidRequest, match="there is no mask to find; use 'diffedit'") as caught:
        pipeline.generate_mask(photo, *TEXTS, **chosen)
    assert caught.value.field == "method"
    with pytest.raises(InvalidRequest, match="no mask to find"):
        pipeline.submit(EditRequest(photo, *TEXTS, **chosen), mask_only=True)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("composite", [True, False])
def test_equal_texts(
    method: str, composite: bool, pipeline: DiffEditPipeline, photo: Image.Image
) -> None:
    result = pipeline(photo, TEXTS[0], TEXTS[0], composite=composite, **options(method, pipeline))
    assert result.image.size == photo.size
    has_mask = method in MASKED_METHODS
    assert any("Both texts are the same" in w for w in result.warnings) == has_mask
    if has_mask and composite:
        assert result.image.tobytes() == photo.tobytes()


@pytest.mark.parametrize("preset", ["paper", "balanced", "draft", "instant"])
def test_the_inversion_of_every_preset(
    preset: Any, pipeline: DiffEditPipeline, photo: Image.Image
) -> None:
    assert len(pipeline.invert(photo, 4, 0.5, preset=preset)) == 3
