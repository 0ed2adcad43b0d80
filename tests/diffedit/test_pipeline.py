"""The Python API on a real tiny checkpoint, pictures in and pictures out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diffedit import DiffEditPipeline, EditRequest, InvalidRequest
from diffedit.algorithm import reference
from diffedit.algorithm.reference_models import stable_diffusion
from diffedit.algorithm.schedule import Schedule
from diffedit.imaging.geometry import choose_size, fit, region
from tests.diffedit.edits import FAST, TEXTS, edit, pixels

pytestmark = pytest.mark.usefixtures("cold")


def test_a_whole_edit_equals_the_reference_path(pipe: DiffEditPipeline, photo: Image.Image) -> None:
    """From the photograph to y_0, through tokenizer, fitting, flows, batcher and backend."""
    result = edit(pipe, photo, negative_prompt="grass", seed=5)
    size = choose_size((photo.height, photo.width), None, 64, 4)
    array, placement = fit(photo, size)
    folder = pipe.checkpoint.folder
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    texts = {"source": TEXTS[0], "target": TEXTS[1], "negative": "grass", "empty": ""}
    ids = {
        name: [
            tokenizer(
                text, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
            ).input_ids
        ]
        for name, text in texts.items()
    }
    modules = pipe.networks.modules  # type: ignore[attr-defined]
    expected = reference.edit(
        stable_diffusion(modules),
        Schedule.from_config(pipe.checkpoint.scheduler_config, 5),
        pipe.resolve(EditRequest(photo, TEXTS[1], seed=5, **FAST)),
        torch.from_numpy(array)[None],
        ids,
        torch.from_numpy(region(placement, 4)),
    )
    assert 0 < expected.mask.sum() < expected.mask.numel()
    assert (result.latent_mask == expected.mask.numpy()).all()
    np.testing.assert_allclose(result.heatmap, expected.heat.numpy(), atol=1e-4)
    np.testing.assert_allclose(result.latents, expected.latents[0].numpy(), atol=1e-3)


@pytest.mark.parametrize("size", [(96, 72), (50, 131), (300, 40)])
def test_the_background_is_the_photograph_bit_for_bit(
    pipe: DiffEditPipeline, photo: Image.Image, size: tuple[int, int]
) -> None:
    photo = photo.resize(size)
    result = edit(pipe, photo)
    assert result.image.size == result.mask.size == photo.size and result.image.mode == "RGB"
    outside = pixels(result.mask) == 0
    assert 0 < outside.mean() < 1
    assert (pixels(result.image)[outside] == pixels(photo)[outside]).all()
    assert (pixels(result.image)[~outside] != pixels(photo)[~outside]).any()
    assert result.heatmap.dtype == np.float32 and result.heatmap.shape == result.latent_mask.shape


def test_without_compositing_the_decoded_picture_comes_back(
    pipe: DiffEditPipeline, photo: Image.Image
) -> None:
    result = edit(pipe, photo, composite=False)
    outside = pixels(result.mask) == 0
    assert result.image.size == photo.size
    assert (pixels(result.image)[outside] != pixels(photo)[outside]).any()


def test_equal_texts_return_the_input_with_a_warning(
    pipe: DiffEditPipeline, photo: Image.Image
) -> None:
    result = pipe(photo, "A red BALL", source_prompt="a red ball", **FAST)
    assert (pixels(result.image) == pixels(photo)).all() and not pixels(result.mask).any()
    assert len(result.warnings) == 1 and "the same" in result.warnings[0]
    assert "unet" not in result.stats.rows


def test_the_users_mask_is_obeyed_to_the_pixel(pipe: DiffEditPipeline, photo: Image.Image) -> None:
    """Its own edges count, not those of the latent cells; any size of the photograph's aspect."""
    mask = np.zeros((72, 96), np.uint8)
    mask[13:45, 21:62] = 255
    result = edit(pipe, photo, mask_image=Image.fromarray(mask))
    assert (pixels(result.mask) == mask).all()
    changed = (pixels(result.image) != pixels(photo)).any(-1)
    assert not changed[mask == 0].any() and changed[mask == 255].mean() > 0.5
    assert result.stats.rows["unet"] == 4 + 8
    large = Image.fromarray(mask).resize((960, 720), Image.Resampling.NEAREST)
    again = edit(pipe, photo, mask_image=large)
    assert (again.latent_mask == result.latent_mask).all()


def test_a_thin_stroke_of_the_users_mask_still_edits(
    pipe: DiffEditPipeline, photo: Image.Image
) -> None:
    mask = np.zeros((72, 96), np.uint8)
    mask[30, 10:80] = 255
    result = edit(pipe, photo, mask_image=Image.fromarray(mask))
    assert result.latent_mask.any() and (pixels(result.mask) == mask).all()
    outside = mask == 0
    assert (pixels(result.image)[outside] == pixels(photo)[outside]).all()


def test_a_mask_image_that_selects_nothing_is_refused(
    pipe: DiffEditPipeline, photo: Image.Image
) -> None:
    with pytest.raises(InvalidRequest, match="black everywhere"):
        edit(pipe, photo, mask_image=Image.new("L", photo.size, 0))


def test_the_result_tells_how_the_mask_was_read(pipe: DiffEditPipeline, photo: Image.Image) -> None:
    with_hole, box = photo.convert("RGBA"), Image.new("L", photo.size, 255)
    box.paste(0, (20, 20, 60, 50))
    with_hole.putalpha(box)
    result = edit(pipe, photo, mask_image=with_hole)
    assert (pixels(result.mask) == 255 - pixels(box)).all()
    assert result.mask_read_as == "alpha" and result.warnings == ()
    soft = Image.linear_gradient("L").resize(photo.size)
    result = edit(pipe, photo, mask_image=soft)
    assert result.mask_read_as == "white" and "grey" in result.warnings[0]
    assert edit(pipe, photo).mask_read_as is None


def test_the_seed_decides(pipe: DiffEditPipeline, photo: Image.Image) -> None:
    first, again, other = (edit(pipe, photo, seed=s) for s in (1, 1, 2))
    assert (first.latents == again.latents).all() and first.seed == 1
    assert not np.array_equal(first.heatmap, other.heatmap)


def test_the_next_edit_of_a_picture_skips_its_encoding(
    pipe: DiffEditPipeline, photo: Image.Image
) -> None:
    first = edit(pipe, photo)
    assert first.stats.rows == {"text": 3, "vae_encode": 1, "unet": 4 + 4 + 8, "vae_decode": 1}
    second = pipe(photo.copy(), "a green cube", source_prompt=TEXTS[0], **FAST)
    assert second.stats.rows == {"text": 1, "unet": 4 + 8, "vae_decode": 1}
    pipe.cache_clear()
    fresh = pipe(photo, "a green cube", source_prompt=TEXTS[0], **FAST)
    assert (fresh.latents == second.latents).all()


def test_the_mask_alone_is_that_of_the_edit(pipe: DiffEditPipeline, photo: Image.Image) -> None:
    found = pipe.generate_mask(photo, TEXTS[1], TEXTS[0], **FAST)
    result = edit(pipe, photo)
    assert (found.latent_mask == result.latent_mask).all()
    np.testing.assert_allclose(found.heatmap, result.heatmap)
    assert (pixels(found.mask) == pixels(result.mask)).all()
    assert "vae_encode" not in result.stats.rows, "the latent was found in the cache"


def test_the_trajectory_begins_with_the_latent(pipe: DiffEditPipeline, photo: Image.Image) -> None:
    path = pipe.invert(photo, num_inference_steps=10, strength=0.5)
    assert path.shape == (6, 4, *edit(pipe, photo).heatmap.shape) and path.dtype == torch.float32
    deeper = pipe.invert(photo, num_inference_steps=10, strength=0.8)
    assert deeper.shape[0] == 9 and deeper[:6].equal(path)


@pytest.mark.parametrize("method", ["diffedit", "encode-decode", "masked-sdedit", "sdedit"])
def test_every_method_edits(pipe: DiffEditPipeline, photo: Image.Image, method: str) -> None:
    result = edit(pipe, photo, method=method)
    assert (pixels(result.image) != pixels(photo)).any()
    assert (pixels(result.mask) == 255).all() == (method in ("encode-decode", "sdedit"))


def test_long_texts_are_cut_with_a_warning(pipe: DiffEditPipeline, photo: Image.Image) -> None:
    result = pipe(photo, "ball " * 100, **FAST)
    assert any("ignored" in w for w in result.warnings)


@pytest.mark.parametrize(
    "wrong",
    [
        {"strength": 0},
        {"steps": 3},
        {"num_inference_steps": 2000},
        {"guidance_scale": float("nan")},
        {"mask_dilation": 1, "mask_image": Image.new("L", (96, 72), 255)},
    ],
)
def test_bad_numbers_are_refused_before_anything_runs(
    pipe: DiffEditPipeline, photo: Image.Image, wrong: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(wrong))):
        edit(pipe, photo, **wrong)


def test_a_fixed_size_is_used(tiny: Path, photo: Image.Image) -> None:
    with DiffEditPipeline.from_pretrained(tiny, dtype="fp32", device="cpu", size=(32, 64)) as pipe:
        result = edit(pipe, photo)
    assert result.heatmap.shape == (8, 16) and result.image.size == photo.size
    with pytest.raises(InvalidRequest, match="multiples of 4"):
        DiffEditPipeline.from_pretrained(tiny, dtype="fp32", device="cpu", size=(30, 64))
