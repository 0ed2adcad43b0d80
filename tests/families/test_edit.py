"""The whole edit of every family equals the reference, on PyTorch and on ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffedit import DiffEditPipeline, EditRequest
from diffedit.algorithm import reference
from diffedit.algorithm.reference_setup import Reference
from engine.backends.torch.networks import TorchNetworks
from engine.manifest import Manifest
from tests.algorithm.flow_tools import resolved
from tests.families.conftest import LCM, FamilyUnderTest
from tests.families.references import SIZE, TEXTS, by_reference
from tests.shared import Folders

OPTIONS: dict[str, Any] = {
    "preset": "paper",
    "num_inference_steps": 5,
    "num_maps_per_mask": 3,
    "mask_thresholding_ratio": 2.0,
    "guidance_scale": 3.0,
    "seed": 2,
}


CUTS: dict[str, Any] = OPTIONS | {
    "preset": "balanced",
    "inversion_stride": 3,
    "guidance_interval": (0.3, 0.7),
    "mask_tolerance": 0.3,
}
"""Three of five levels are encoded by one row, two of four steps are guided, and the mask stops
after two or three noises and is cleaned."""


EXPORTED = ("tiny", "tiny-lcm", "tiny-sdxl", "tiny-sd3", "tiny-flux", "tiny-schnell")
"""The other kinds have the layers of these."""


def expected(family: FamilyUnderTest, photo: Image.Image, options: dict[str, Any]) -> Reference:
    """The edit of the photograph by plain loops."""
    request = resolved(EditRequest(b"", TEXTS["target"], **options))
    return by_reference(reference.edit, family, photo, request)


@pytest.mark.parametrize("options", [OPTIONS, CUTS], ids=["paper", "cuts"])
def test_an_edit_equals_the_reference(
    family: FamilyUnderTest, photo: Image.Image, options: dict[str, Any]
) -> None:
    networks = TorchNetworks.open(family.checkpoint, dtype="fp32", device="cpu")
    with DiffEditPipeline(family.checkpoint, networks, size=SIZE) as pipe:
        result = pipe(photo, TEXTS["target"], TEXTS["source"], TEXTS["negative"], **options)
    check(result, expected(family, photo, options), photo)
    ignored = any("negative prompt is ignored" in warning for warning in result.warnings)
    assert ignored == (family.kind in ("tiny-flux", *LCM))


def check(result: Any, wanted: Reference, photo: Image.Image) -> None:
    assert 0 < wanted.mask.sum() < wanted.mask.numel()
    np.testing.assert_allclose(result.heatmap, wanted.heat.numpy(), atol=1e-3)
    assert (result.latent_mask == wanted.mask.numpy()).all()
    np.testing.assert_allclose(result.latents, wanted.latents[0].numpy(), atol=2e-3)
    outside = np.asarray(result.mask) == 0
    assert (np.asarray(result.image)[outside] == np.asarray(photo)[outside]).all()


@pytest.mark.slow
@pytest.mark.parametrize("family", EXPORTED, indirect=True)
def test_an_edit_on_onnxruntime_equals_the_reference(
    family: FamilyUnderTest, photo: Image.Image, onnx_engines: Folders
) -> None:
    engines = onnx_engines(family.kind)
    networks = {network.name for network in family.checkpoint.family.networks}
    assert {entry.spec.name for entry in Manifest.load(engines).entries} == networks
    with DiffEditPipeline.from_pretrained(
        family.folder, backend="onnxruntime", engines=engines, device="cpu"
    ) as pipe:
        result = pipe(photo, TEXTS["target"], TEXTS["source"], TEXTS["negative"], **OPTIONS)
    check(result, expected(family, photo, OPTIONS), photo)
