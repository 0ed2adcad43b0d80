"""The blocks for diffusers' modular pipelines, alone and inside a pipeline of theirs."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from demo.picture import still_life
from diffedit import DiffEditPipeline, InvalidRequest
from tests.integrations.conftest import ROOT
from tests.shared import Folders

pytest.importorskip("diffusers.modular_pipelines", reason="this diffusers has no modular pipelines")

TEXTS: dict[str, Any] = {"prompt": "a blue ball", "source_prompt": "a red ball"}
OPTIONS: dict[str, Any] = {"num_inference_steps": 2, "seed": 3}


@pytest.fixture(scope="module")
def own(tiny: Path) -> Iterator[DiffEditPipeline]:
    with DiffEditPipeline.from_pretrained(tiny, device="cpu", dtype="fp32") as pipeline:
        yield pipeline


def masked(own: DiffEditPipeline, photo: Image.Image, share: float) -> dict[str, Any]:
    """Options with which the mask has about this share of the photograph."""
    heatmap = own.generate_mask(photo, **TEXTS, **OPTIONS).heatmap
    return {**OPTIONS, "mask_threshold": round(float(np.quantile(heatmap, 1 - share)), 3)}


def equal(one: Any, other: Any) -> bool:
    """Whether two pictures have the same pixels."""
    return np.array_equal(np.asarray(one), np.asarray(other))


@pytest.fixture
def blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The blocks, loaded by diffusers from the folder, without a hub."""
    from diffusers.modular_pipelines import ModularPipelineBlocks

    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = ROOT / "integrations" / "diffusers"
    return ModularPipelineBlocks.from_pretrained(str(folder), trust_remote_code=True)


def test_the_blocks_find_the_mask_and_edit_inside_it(
    blocks: Any, own: DiffEditPipeline, photo: Image.Image
) -> None:
    pipeline = blocks.init_pipeline()
    pipeline.update_components(diffedit=own)
    options = masked(own, photo, 0.4)
    state = pipeline(image=photo, **TEXTS, mask_options=options, edit_options=OPTIONS)
    found = own.generate_mask(photo, **TEXTS, **options)
    direct = own(photo, **TEXTS, **OPTIONS, mask_image=found.mask)
    mask, (edited,) = state.get("mask_image"), state.get("images")
    assert mask.size == edited.size == photo.size
    assert 0 < np.asarray(mask).mean() < 255
    assert equal(mask, found.mask) and equal(edited, direct.image)
    outside = np.asarray(mask) == 0
    assert np.array_equal(np.asarray(edited)[outside], np.asarray(photo)[outside])
    assert state.get("heatmap").dtype == np.float32
    assert state.get("edit_result").parameters["seed"] == 3


def test_a_given_mask_is_used(blocks: Any, own: DiffEditPipeline, photo: Image.Image) -> None:
    step = blocks.sub_blocks["edit"].init_pipeline()
    step.update_components(diffedit=own)
    mask = Image.new("L", photo.size)
    mask.paste(255, (24, 24, 60, 60))
    edited = step(image=[photo], **TEXTS, mask_image=mask, edit_options=OPTIONS, output="images")[0]
    assert equal(edited, own(photo, **TEXTS, **OPTIONS, mask_image=mask).image)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_mask_step_drives_diffusers_own_inpainting(
    blocks: Any, own: DiffEditPipeline, folders: Folders
) -> None:
    name = "diffusers.modular_pipelines.stable_diffusion_xl.modular_blocks_stable_diffusion_xl"
    theirs = importlib.import_module(name).StableDiffusionXLAutoBlocks()
    theirs.sub_blocks.insert("diffedit_mask", blocks.sub_blocks["mask"], 0)
    pipeline = theirs.init_pipeline(str(folders("tiny-sdxl")))
    pipeline.load_components(dtype=torch.float32)
    pipeline.update_components(diffedit=own)
    photo = still_life(64, 64)

    def run(**options: Any) -> tuple[Any, Any]:
        state = pipeline(
            image=photo,
            **TEXTS,
            **options,
            num_inference_steps=4,
            strength=0.9,
            height=64,
            width=64,
            generator=torch.Generator().manual_seed(0),
        )
        return state.get("mask_image"), np.asarray(state.get("images")[0])

    small, large = masked(own, photo, 0.3), masked(own, photo, 0.7)
    mask, edited = run(mask_options=small)
    assert equal(mask, own.generate_mask(photo, **TEXTS, **small).mask)
    larger, other = run(mask_options=large)
    assert np.asarray(larger).mean() > np.asarray(mask).mean()
    assert edited.shape == (64, 64, 3) and not np.array_equal(edited, other)


def test_what_is_missing_or_wrong_is_said(
    blocks: Any, own: DiffEditPipeline, photo: Image.Image
) -> None:
    pipeline = blocks.init_pipeline()
    with pytest.raises(InvalidRequest, match="no component `diffedit`; add it with"):
        pipeline(image=photo, **TEXTS)
    pipeline.update_components(diffedit=own)
    with pytest.raises(InvalidRequest, match="a list of 2 pictures"):
        pipeline(image=[photo, photo], **TEXTS)
    with pytest.raises(InvalidRequest, match="did you mean 'seed'"):
        pipeline(image=photo, **TEXTS, mask_options={"seeed": 1})
    with warnings.catch_warnings(), pytest.raises(ValueError, match="image"):
        pipeline(**TEXTS)
