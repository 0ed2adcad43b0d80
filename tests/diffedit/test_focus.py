"""`focus`: the edit of a window, exactly as if the window had been the photograph, put back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from demo.picture import still_life
from diffedit import DiffEditPipeline, EditRequest, EditResult, InvalidRequest
from diffedit.imaging.window import window_around
from tests.shared import Folders

TEXTS: dict[str, Any] = {"prompt": "a blue ball", "source_prompt": "a red ball"}
FAST: dict[str, Any] = {
    "preset": "paper",
    "num_inference_steps": 4,
    "num_maps_per_mask": 2,
    "strength": 0.5,
}
SIZE = (64, 64)


@pytest.fixture(scope="module")
def pipe(tiny: Path) -> Iterator[DiffEditPipeline]:
    with DiffEditPipeline.from_pretrained(
        tiny, dtype="fp32", size=SIZE, pin_batch_size=1
    ) as opened:
        yield opened


@pytest.fixture
def photo() -> Image.Image:
    return still_life(400, 300)


@pytest.fixture
def mask(photo: Image.Image) -> Image.Image:
    picture = Image.new("L", photo.size)
    picture.paste(255, (200, 100, 260, 150))
    return picture


def array(picture: Image.Image) -> np.ndarray[Any, Any]:
    return np.asarray(picture)


def check_window(
    pipe: DiffEditPipeline, photo: Image.Image, result: EditResult, context: float, **options: Any
) -> None:
    """The result is that of the window alone, edited with the mask, in the photograph."""
    box = result.mask.getbbox()
    assert box is not None
    window = window_around(box, photo.size, SIZE, context)
    alone = pipe(
        photo.crop(window), **TEXTS, **FAST, **options, mask_image=result.mask.crop(window)
    )
    expected = photo.copy()
    expected.paste(alone.image, window[:2])
    # The fade at the outline is as wide as suits the whole photograph: compare where it has ended.
    core = array(result.mask.filter(ImageFilter.MinFilter(9))) > 0
    assert core.any()
    assert (array(result.image)[core] == array(expected)[core]).all()
    outside = array(result.mask) == 0
    assert (array(result.image)[outside] == array(photo)[outside]).all()
    assert (array(expected)[core] != array(photo)[core]).any()


def test_the_users_mask(pipe: DiffEditPipeline, photo: Image.Image, mask: Image.Image) -> None:
    result = pipe(photo, **TEXTS, **FAST, focus=True, context_factor=2, mask_image=mask)
    assert (array(result.mask) == array(mask)).all()
    check_window(pipe, photo, result, 2)
    assert result.latent_mask.shape == result.heatmap.shape == (16, 16)
    assert result.latent_mask.sum() < 16  # cells of the whole photograph
    assert result.stats.rows["unet"] == 2 + 4
    assert result.parameters["focus"] is True
    again = pipe(photo, **TEXTS, **FAST, focus=True, context_factor=2, mask_image=mask)
    assert again.stats.rows["unet"] == 4  # the window's trajectory is cached
    assert (array(again.image) == array(result.image)).all()


FOUND: dict[str, Any] = {**TEXTS, **FAST, "mask_thresholding_ratio": 3.6}
"""With seeds 3 and 6 the random model finds a few cells in the middle."""


def test_a_mask_that_was_found(pipe: DiffEditPipeline, photo: Image.Image) -> None:
    whole = pipe(photo, **FOUND, seed=3)
    result = pipe(photo, **FOUND, seed=3, focus=True)
    assert (array(result.mask) == array(whole.mask)).all()
    assert (result.heatmap == whole.heatmap).all()
    assert (array(result.image) != array(whole.image)).any()
    check_window(pipe, photo, result, 1.5, seed=3)
    rows = {"unet": 4 + 2 + 4, "vae_encode": 1, "vae_decode": 1}  # x_0 of the whole is cached
    assert {name: result.stats.rows[name] for name in rows} == rows


def test_auto(pipe: DiffEditPipeline, photo: Image.Image) -> None:
    whole = pipe(photo, **FOUND, seed=6)
    focused = pipe(photo, **FOUND, seed=6, focus=True)
    auto = pipe(photo, **FOUND, seed=6, focus="auto")
    assert (array(auto.image) == array(focused.image)).all()
    assert (array(auto.image) != array(whole.image)).any()
    small = photo.resize((48, 36))
    assert (
        array(pipe(small, **FOUND, seed=6, focus="auto").image)
        == array(pipe(small, **FOUND, seed=6).image)
    ).all()


def test_a_mask_of_everything_is_edited_without_a_window(
    pipe: DiffEditPipeline, photo: Image.Image
) -> None:
    mask = Image.new("L", photo.size, 255)
    whole = pipe(photo, **TEXTS, **FAST, mask_image=mask)
    result = pipe(photo, **TEXTS, **FAST, mask_image=mask, focus=True)
    assert (array(result.image) == array(whole.image)).all()
    (warning,) = set(result.warnings) - set(whole.warnings)
    assert "covers too much of the picture for focus" in warning
    assert pipe(photo, **TEXTS, **FAST, mask_image=mask, focus="auto").warnings == whole.warnings


def test_no_window_where_the_texts_agree(pipe: DiffEditPipeline, photo: Image.Image) -> None:
    result = pipe(photo, "a red ball", "a red ball", **FAST, focus=True)
    assert (array(result.image) == array(photo)).all()
    assert result.mask.getbbox() is None


def test_progress_ends_and_previews_show_the_whole_picture(
    pipe: DiffEditPipeline, photo: Image.Image
) -> None:
    pipe.cache_clear()
    calls: list[tuple[str, int, int]] = []
    previews: list[tuple[Any, Any]] = []
    request = EditRequest(photo, **FOUND, seed=3, focus=True)
    handle = pipe.submit(
        request,
        callback=lambda *call: calls.append(call),
        on_preview=lambda *latents: previews.append(latents),
    )
    result = handle.result()
    assert calls[-1][1:] == (10, 10)
    assert [done for _, done, _ in calls] == sorted(done for _, done, _ in calls)
    assert list(dict.fromkeys(stage for stage, _, _ in calls)) == ["mask", "encode", "decode"]
    assert len(previews) == 2
    picture = handle.render_preview(np.ones((16, 16, 3), np.float32))
    assert picture.size == (64, 48)
    box = result.mask.getbbox()
    assert box is not None
    middle = ((box[0] + box[2]) * 64 // 800, (box[1] + box[3]) * 48 // 600)
    assert picture.getpixel(middle) == (255, 255, 255)
    assert picture.getpixel((63, 0)) != (255, 255, 255)
    assert handle.canvas.shape == (3, 64, 64)


@pytest.mark.parametrize(
    ("kind", "method", "ratio", "seed"),
    [("tiny", "masked-sdedit", 3.6, 3), ("tiny-sd3", "flowedit", 2.5, 5)],
)
def test_every_method_with_a_mask(
    kind: str, method: str, ratio: float, seed: int, photo: Image.Image, folders: Folders
) -> None:
    folder = folders(kind)
    options = {**FOUND, "method": method, "seed": seed, "mask_thresholding_ratio": ratio}
    with DiffEditPipeline.from_pretrained(folder, dtype="fp32", size=SIZE) as pipe:
        whole, result = (pipe(photo, **options, focus=focus) for focus in (False, True))
    assert (array(result.mask) == array(whole.mask)).all()
    outside = array(result.mask) == 0
    assert (array(result.image)[outside] == array(photo)[outside]).all()
    assert (array(result.image) != array(whole.image)).any()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"focus": "yes"}, "focus is 'yes', but must be 'auto', True or False"),
        ({"focus": 1}, "focus is 1, but must be True or False"),
        ({"focus": True, "composite": False}, "focus repaints a window only"),
        ({"focus": True, "method": "sdedit"}, "has no window"),
        ({"focus": True, "method": "chordedit"}, "has no window"),
        ({"context_factor": 0.5}, "context_factor is 0.5, but must be a number from 1 to 8"),
    ],
)
def test_bad_options(photo: Image.Image, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        EditRequest(photo, "a pear", **options)


@pytest.mark.parametrize(
    "options", [{"composite": False}, {"method": "encode-decode"}, {"preset": "instant"}]
)
def test_auto_gives_way(
    pipe: DiffEditPipeline, photo: Image.Image, options: dict[str, Any]
) -> None:
    auto = pipe(photo, **{**FOUND, "seed": 6, "focus": "auto", **options})
    plain = pipe(photo, **{**FOUND, "seed": 6, **options})
    assert (array(auto.image) == array(plain.image)).all()
