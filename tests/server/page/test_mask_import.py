"""The page in a browser: mask files, and the outline that follows the picture."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from playwright.sync_api import Page, expect

from demo.picture import still_life
from tests.server.page.actions import (
    OpenPage,
    click,
    decoded,
    drop,
    edit_and_download_mask,
    fill_prompts,
    find_mask,
    mask_share,
    payload,
    scene_image,
    set_shape,
    upload,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def drawn_mask(size: tuple[int, int] = (128, 128)) -> Image.Image:
    mask = Image.new("L", size)
    width, height = size
    ImageDraw.Draw(mask).ellipse([width // 8, height // 4, width // 2, height * 3 // 4], 255)
    return mask


def test_chosen_mask_file_is_the_mask_of_the_edit(visit: OpenPage, fast: str) -> None:
    page = visit(fast).page
    upload(page, scene_image())
    fill_prompts(page)
    page.set_input_files("#maskFile", payload(drawn_mask(), "mask.png"))
    expect(page.locator("#maskPanel")).to_be_visible()
    expected = np.asarray(drawn_mask()) > 0
    assert abs(mask_share(page) - 100 * expected.mean()) < 0.2
    assert np.array_equal(edit_and_download_mask(page), expected)


def test_dropped_mask_is_undone_and_survives_a_reload(visit: OpenPage, fast: str) -> None:
    page = visit(fast).page
    upload(page, scene_image())
    fill_prompts(page)
    find_mask(page)
    found = page.locator("#maskShare").inner_text()
    drop(page, drawn_mask((256, 256)), "drawn.png")  # twice as large: the same aspect ratio
    expect(page.locator("#fileTitle")).to_have_text("What is drawn.png?")
    click(page, "The mask of this picture")
    expect(page.locator("#maskShare")).not_to_have_text(found)
    share = mask_share(page)
    assert abs(share - 100 * (np.asarray(drawn_mask()) > 0).mean()) < 0.5
    click(page, "Undo")
    expect(page.locator("#maskShare")).to_have_text(found)
    click(page, "Redo")
    page.reload()
    expect(page.locator("#maskPanel")).to_be_visible()
    assert mask_share(page) == share
    click(page, "Invert")
    assert abs(mask_share(page) - (100 - share)) < 0.3
    click(page, "Edit")
    expect(page.locator("#result")).to_be_visible()


def test_files_that_are_no_masks_are_refused(visit: OpenPage, fast: str) -> None:
    visited = visit(fast)
    page = visited.page
    upload(page, scene_image())
    fill_prompts(page)
    click(page, "Paint the mask")
    for image, words in [
        (scene_image(970_040), "looks like a photograph"),
        (Image.new("L", (128, 128)), "The mask is black everywhere"),
        (drawn_mask((128, 64)), "another aspect ratio"),
    ]:
        page.set_input_files("#maskFile", payload(image, "mask.png"))
        expect(page.locator("#maskFileError")).to_contain_text(words)
        visited.expect_failed_request(400)
    expect(page.locator("#undo")).to_be_disabled()
    page.set_input_files("#maskFile", payload(drawn_mask(), "mask.png"))
    expect(page.locator("#maskFileError")).to_be_empty()
    expect(page.locator("#undo")).to_be_enabled()


def shown_outline(page: Page) -> NDArray[np.bool_]:
    """What is inside the displayed outline, in the picture's own size."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    encoded_mask = page.evaluate(
        """async () => {
          const { encodeMask } = await import("/mask.js");
          const blob = await encodeMask();
          return [...new Uint8Array(await blob.arrayBuffer())];
        }"""
    )
    return np.asarray(Image.open(io.BytesIO(bytes(encoded_mask))).convert("L")) > 127


def test_outline_follows_the_picture(visit: OpenPage, fast: str) -> None:
    """With "edges", what is outlined is what takes half of the edit or more."""
    page = visit(fast).page
    upload(page, still_life(300, 200))
    fill_prompts(page)
    find_mask(page)
    response = set_shape(page, "#cleaning", "edges")
    blend, cells = decoded(response, "blend_mask") > 127, decoded(response, "mask") > 0
    outlined = shown_outline(page)
    assert np.array_equal(outlined, blend)
    assert (blend != cells).any()
    share = 100 * blend.mean()
    assert abs(mask_share(page) - share) < 0.2
    blocks = set_shape(page, "#cleaning", "none")
    assert np.array_equal(shown_outline(page), decoded(blocks, "mask") > 0)


@pytest.mark.parametrize("size", [(128, 128), (150, 100), (90, 200), (1700, 1100)])
def test_cells_of_a_painted_mask_are_the_servers(
    visit: OpenPage, fast: str, size: tuple[int, int]
) -> None:
    """Also of a large picture, whose mask is displayed small: no cell more or less is edited."""
    page = visit(fast).page
    upload(page, still_life(*size))
    fill_prompts(page)
    find_mask(page)
    refined = set_shape(page, "#cleaning", "none")
    exact = page.request.post(f"{fast}/v1/masks/{refined['mask_id']}", form={"cleaning": "none"})
    whole = decoded(exact.json(), "mask") > 0
    assert whole.shape == size[::-1]
    assert np.array_equal(shown_outline(page), whole)


def test_another_picture_is_no_loss(visit: OpenPage, fast: str) -> None:
    page = visit(fast).page
    upload(page, scene_image(), "first.png")
    fill_prompts(page)
    click(page, "Edit directly")
    expect(page.locator("#result")).to_be_visible()
    drop(page, scene_image(970_041), "second.png")
    click(page, "A new picture")
    expect(page.locator("#photoName")).to_have_text("second.png")
    click(page, "Back to first.png")
    expect(page.locator("#photoName")).to_have_text("first.png")
    expect(page.locator("#history button")).to_have_count(2)
    page.reload()
    click(page, "Back to second.png")
    expect(page.locator("#photoName")).to_have_text("second.png")
    expect(page.locator("#historyPanel")).to_be_hidden()
