"""The pictures of the explanation are those of an edit, and equal the pipeline's result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from demo import algorithm_pictures
from demo.gallery import picks
from diffedit import DiffEditPipeline, EditRequest
from docs.generate.links import ROOT

NAMES = ("noising", "differences", "encoding", "decoding")


@pytest.mark.slow
def test_the_recorded_edit_is_the_pipelines(tmp_path: Path) -> None:
    ((scene, change),) = picks([970_004])
    request = EditRequest(
        scene.image, change.target, change.source, preset="paper", num_inference_steps=5
    )
    with DiffEditPipeline.from_pretrained(ROOT / "demo/model", backend="torch") as pipe:
        stages = algorithm_pictures.run(pipe, request)
        result = pipe.submit(request).result()
        drawn = algorithm_pictures.pictures(stages)
    assert np.array_equal(stages.outputs.mask.numpy(), result.latent_mask)
    assert np.allclose(stages.outputs.latents.numpy(), result.latents, atol=1e-5)
    assert len(stages.recording.mask_rows) == 20
    assert len(stages.recording.previews) == stages.plan.depth == len(stages.trajectory) - 1
    assert set(drawn) == {f"algorithm-{name}" for name in NAMES}


def test_the_pictures_in_the_documents_are_small() -> None:
    files = [ROOT / f"docs/images/algorithm-{name}.webp" for name in NAMES]
    assert sum(file.stat().st_size for file in files) < 500_000
    for file in files:
        with Image.open(file) as picture:
            assert picture.size == (940, 208)
