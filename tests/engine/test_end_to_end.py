"""A whole edit on compiled networks, pictures in and pictures out, against the reference path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diffedit import DiffEditPipeline, EditRequest
from diffedit.algorithm import reference
from diffedit.algorithm.reference_models import stable_diffusion
from diffedit.algorithm.reference_setup import Reference
from diffedit.algorithm.schedule import Schedule
from diffedit.conditioning.tokenizer import Tokenizer
from diffedit.imaging.geometry import fit, region
from engine.backends.torch.networks import TorchNetworks
from engine.checkpoint import Checkpoint
from tests.algorithm.flow_tools import resolved

SIZE = (64, 96)
OPTIONS: dict[str, Any] = {
    "preset": "paper",
    "num_inference_steps": 5,
    "num_maps_per_mask": 3,
    "seed": 2,
}
TEXTS = {"source": "a red ball", "target": "a blue ball", "negative": "grass", "empty": ""}


@pytest.fixture(scope="module")
def expected(tiny: Path) -> Reference:
    """The edit of the still life by plain loops, in fp32."""
    from demo.picture import still_life

    checkpoint = Checkpoint.open(tiny)
    modules = TorchNetworks.open(checkpoint, dtype="fp32", device="cpu").modules
    tokenizer = Tokenizer(tiny / "tokenizer", checkpoint.family.text_inputs[0].length)
    array, placement = fit(still_life(96, 72), SIZE)
    return reference.edit(
        stable_diffusion(modules),
        Schedule.from_config(checkpoint.scheduler_config, 5),
        resolved(EditRequest(b"", TEXTS["target"], **OPTIONS)),
        torch.from_numpy(array)[None],
        {name: [torch.tensor([tokenizer.encode(text)])] for name, text in TEXTS.items()},
        torch.from_numpy(region(placement, checkpoint.family.factor)),
    )


@pytest.mark.parametrize("pin", [None, 4])
def test_an_edit_on_onnxruntime_equals_the_reference(
    tiny: Path, onnx_folder: Path, photo: Image.Image, expected: Reference, pin: Any
) -> None:
    with DiffEditPipeline.from_pretrained(
        tiny, backend="onnxruntime", engines=onnx_folder, pin_batch_size=pin
    ) as pipe:
        result = pipe(photo, TEXTS["target"], TEXTS["source"], TEXTS["negative"], **OPTIONS)
    assert 0 < expected.mask.sum() < expected.mask.numel()
    assert (result.latent_mask == expected.mask.numpy()).all()
    np.testing.assert_allclose(result.heatmap, expected.heat.numpy(), atol=1e-3)
    np.testing.assert_allclose(result.latents, expected.latents[0].numpy(), atol=5e-3)
    outside = np.asarray(result.mask) == 0
    assert (np.asarray(result.image)[outside] == np.asarray(photo)[outside]).all()
    assert result.stats.rows == {"text": 4, "vae_encode": 1, "unet": 6 + 4 + 8, "vae_decode": 1}


@pytest.mark.slow
def test_several_edits_on_onnxruntime_equal_the_reference(
    tiny: Path, onnx_folder: Path, photo: Image.Image
) -> None:
    checkpoint = Checkpoint.open(tiny)
    tokenizer = Tokenizer(tiny / "tokenizer", checkpoint.family.text_inputs[0].length)
    edits = [("a red ball", "a blue ball"), ("a red ball", "green grass"), ("", "a blue ball")]
    texts = {text: text for pair in edits for text in pair}
    request = resolved(EditRequest(b"", edits=edits, **OPTIONS))
    array, placement = fit(photo, SIZE)
    expected = reference.edit(
        stable_diffusion(TorchNetworks.open(checkpoint, dtype="fp32", device="cpu").modules),
        Schedule.from_config(checkpoint.scheduler_config, 5),
        request,
        torch.from_numpy(array)[None],
        {
            name: [torch.tensor([tokenizer.encode(text)])]
            for name, text in {**texts, "negative": "", "empty": ""}.items()
        },
        torch.from_numpy(region(placement, checkpoint.family.factor)),
        pairs=edits,
    )
    with DiffEditPipeline.from_pretrained(tiny, backend="onnxruntime", engines=onnx_folder) as pipe:
        result = pipe(photo, edits=edits, **OPTIONS)
    assert sum(mask.any().item() for mask in expected.masks) >= 2
    for found, mask in zip(result.edits, expected.masks, strict=True):
        assert (found.latent_mask == mask.numpy()).all()
    np.testing.assert_allclose(result.latents, expected.latents[0].numpy(), atol=5e-3)
