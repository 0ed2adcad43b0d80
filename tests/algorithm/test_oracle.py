"""Comparison with the installed diffusers' DiffEdit where it follows the paper.

Tiny random networks, fp32, every embedding passed explicitly, one image, equal negatives. What its
pipeline does wrong (see README) is stepped around, not copied.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, StableDiffusionDiffEditPipeline

from diffedit.algorithm.schedule import Schedule
from engine.backends.torch.networks import TorchNetworks
from engine.batcher import Batcher
from engine.checkpoint import Checkpoint
from engine.rows import Row
from tests.algorithm.flow_tools import (
    drain,
    encode_flow,
    mask_flow,
    new_caches,
    new_inputs,
    run,
    run_edit,
    tokens,
)


class Oracle:
    """diffusers' pipeline on the same modules, and ours beside it."""

    def __init__(self, folder: Path) -> None:
        self.networks = TorchNetworks.open(Checkpoint.open(folder), dtype="fp32", device="cpu")
        config = self.networks.checkpoint.scheduler_config
        known = {k: v for k, v in config.items() if k not in ("_class_name", "skip_prk_steps")}
        modules = self.networks.modules
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.theirs = StableDiffusionDiffEditPipeline(
                vae=modules["vae"],
                text_encoder=modules["text_encoder"],
                tokenizer=None,
                unet=modules["unet"],
                scheduler=DDIMScheduler(**known),
                inverse_scheduler=DDIMInverseScheduler(**known),
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
            )
        self.theirs.set_progress_bar_config(disable=True)
        self.steps = 10
        self.schedule = Schedule.from_config(config, self.steps)
        self.inputs = new_inputs(16, 4, num_inference_steps=self.steps, num_maps_per_mask=5, seed=3)
        batcher = Batcher(self.networks)
        job = batcher.submit(self._inputs())
        drain(batcher)
        self.x0, text = job.future.result()
        self.source, self.target, self.empty = (t[None] for t in text)

    def _inputs(self) -> Any:
        (x0,) = yield [Row("vae_encode", (self.inputs.image,))]
        ids = (self.inputs.source, self.inputs.target, self.inputs.empty)
        text = yield [Row("text", (torch.tensor(t),)) for (t,) in ids]
        return x0, text

    def mask(self, guidance_scale: float = 7.5) -> np.ndarray[Any, Any]:
        found = self.theirs.generate_mask(
            image=self.x0[None],
            target_prompt_embeds=self.target,
            target_negative_prompt_embeds=self.empty,
            source_prompt_embeds=self.source,
            source_negative_prompt_embeds=self.empty,
            num_maps_per_mask=5,
            num_inference_steps=self.steps,
            guidance_scale=guidance_scale,
            generator=torch.Generator().manual_seed(3),
        )
        first: np.ndarray[Any, Any] = found[0]
        return first

    def trajectory(self) -> torch.Tensor:
        """Their inversion, [d, C, h, w], our order: level 1 first."""
        found = self.theirs.invert(
            prompt_embeds=self.empty,
            negative_prompt_embeds=self.empty,
            image=self.x0[None],
            num_inference_steps=self.steps,
            inpaint_strength=0.8,
            guidance_scale=1,
            output_type="latent",
        ).latents
        path: torch.Tensor = found[0].flip(0)
        return path


@pytest.fixture(scope="module", params=["tiny", "tiny_v"])
def oracle(request: pytest.FixtureRequest) -> Oracle:
    return Oracle(request.getfixturevalue(request.param))


def test_masks_are_equal_pixel_for_pixel(oracle: Oracle) -> None:
    edited, _ = run(mask_flow(oracle.inputs, oracle.schedule, new_caches()), oracle.networks)
    theirs = oracle.mask()
    assert 0 < theirs.sum() < theirs.size
    assert (edited.mask.numpy() == theirs.astype(bool)).all()


def test_their_mask_knows_no_guidance_either(oracle: Oracle) -> None:
    assert (oracle.mask(1.5) == oracle.mask(15.0)).all()


def test_trajectories_agree_at_every_level(oracle: Oracle) -> None:
    flow = encode_flow(oracle.inputs, oracle.schedule, new_caches())
    path, _ = run(flow, oracle.networks)
    theirs = oracle.trajectory()
    assert theirs.shape == path[1:].shape
    for level in range(len(theirs)):
        torch.testing.assert_close(path[level + 1], theirs[level], atol=1e-4, rtol=1e-4)


def test_decoding_under_a_full_mask_agrees(oracle: Oracle) -> None:
    full = torch.ones(16, 16, dtype=torch.bool)
    inputs = new_inputs(16, 4, num_inference_steps=oracle.steps, user_mask=full, seed=3)
    edited, _ = run_edit(oracle.networks, inputs, oracle.schedule)
    theirs = oracle.theirs(
        prompt_embeds=oracle.target,
        negative_prompt_embeds=oracle.empty,
        mask_image=torch.ones(1, 1, 16, 16),
        image_latents=oracle.trajectory().flip(0)[None],
        num_inference_steps=oracle.steps,
        inpaint_strength=0.8,
        guidance_scale=7.5,
        output_type="latent",
    ).images[0]
    torch.testing.assert_close(edited.latents, theirs, atol=1e-4, rtol=1e-4)


def test_where_they_differ_from_the_paper_as_the_readme_says(oracle: Oracle) -> None:
    """diffusers: equal texts edit everything, masks without guidance crash, no x_0 outside."""
    with pytest.raises((TypeError, RuntimeError)):  # which one depends on how texts are passed
        oracle.mask(guidance_scale=1)
    target, oracle.target = oracle.target, oracle.source
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of casting NaN
        assert oracle.mask().all()
    oracle.target = target
    kept = oracle.theirs(
        prompt_embeds=oracle.target,
        negative_prompt_embeds=oracle.empty,
        mask_image=torch.zeros(1, 1, 16, 16),
        image_latents=oracle.trajectory().flip(0)[None],
        num_inference_steps=oracle.steps,
        inpaint_strength=0.8,
        output_type="latent",
    ).images[0]
    assert kept.equal(oracle.trajectory()[0]) and not kept.equal(oracle.x0)


def test_the_texts_matter(oracle: Oracle) -> None:
    """A guard on the tests above: other texts give another mask and another result."""
    other = new_inputs(
        16, 4, num_inference_steps=oracle.steps, num_maps_per_mask=5, seed=3, target=tokens(60)
    )
    first, _ = run_edit(oracle.networks, oracle.inputs, oracle.schedule)
    second, _ = run_edit(oracle.networks, other, oracle.schedule)
    assert not first.mask.equal(second.mask)
