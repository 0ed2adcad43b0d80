"""The page in a browser: choosing an image, finding and painting the mask."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import (
    expect,
)

from demo.picture import still_life
from tests.server.helpers import encoded
from tests.server.page.actions import (
    OpenPage,
    choose_preset,
    click,
    decoded,
    edit_and_download_mask,
    fill_prompts,
    find_mask,
    mask_share,
    scene_image,
    set_range,
    set_shape,
    upload,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_invalid_images_are_refused_with_a_message(
    visit: OpenPage, fast: str, tmp_path: Path
) -> None:
    page = visit(fast).page
    expect(page.locator("#model")).to_contain_text("fake")  # the limits are loaded
    Image.new("L", (9000, 1)).save(tmp_path / "long.png")
    for name, size, words in [
        ("notes.txt", 10, "notes.txt is neither PNG, JPEG nor WebP"),
        ("big.png", 20_100_000, "big.png has 20.1 MB, but the limit is 20 MB"),
        ("torn.png", 100, "torn.png is damaged"),
        ("long.png", None, "long.png has 9000 pixels per side, but the limit is 8192"),
    ]:
        if size is not None:
            (tmp_path / name).write_bytes(bytes(size))
        page.set_input_files("#file", tmp_path / name)
        expect(page.locator("#imageError")).to_contain_text(words)
        expect(page.locator("#editor")).to_be_hidden()
    upload(page, scene_image())
    expect(page.locator("#welcome")).to_be_hidden()
    expect(page.locator("#photoSize")).to_have_text(re.compile("^128 . 128$"))


def test_image_can_be_dropped_or_pasted(visit: OpenPage, fast: str) -> None:
    page = visit(fast).page
    for event in ("drop", "paste"):
        page.evaluate(
            """([kind, bytes]) => {
              const data = new DataTransfer();
              const type = "image/png";
              data.items.add(new File([new Uint8Array(bytes)], `${kind}.png`, { type }));
              const Kind = { drop: DragEvent, paste: ClipboardEvent }[kind];
              const given = { dataTransfer: data, clipboardData: data, bubbles: true };
              document.body.dispatchEvent(new Kind(kind, given));
            }""",
            [event, list(encoded(scene_image()))],
        )
        if event == "paste":  # a picture is open: the page asks what the file is
            expect(page.locator("#fileTitle")).to_have_text("What is paste.png?")
            click(page, "A new picture")
        expect(page.locator("#photoName")).to_have_text(f"{event}.png")


def test_found_mask_is_sent_with_the_edit(visit: OpenPage, fast: str) -> None:
    page = visit(fast).page
    upload(page, scene_image())
    fill_prompts(page)
    response = find_mask(page)
    expect(page.locator("#heatmap")).to_be_visible()
    expect(page.locator("#announcement")).to_have_text(re.compile(r"Mask found: [\d.]+ % of"))
    outlined = decoded(response, "blend_mask") > 127  # the border follows the picture's edges
    assert abs(mask_share(page) - 100 * outlined.mean()) < 0.2
    found = decoded(response, "mask") > 0
    assert 0 < found.mean() < 1
    assert np.array_equal(edit_and_download_mask(page), found)


@pytest.mark.parametrize("size", [(128, 128), (150, 100), (90, 200)])
def test_threshold_gives_the_same_mask_as_the_server(
    visit: OpenPage, fast: str, size: tuple[int, int]
) -> None:
    page = visit(fast).page
    photo = still_life(*size)
    upload(page, photo)
    fill_prompts(page)
    choose_preset(page, "Thorough")
    response = find_mask(page)
    for threshold in (0.2, 0.65):
        expected = decoded(set_shape(page, "#threshold", threshold), "mask") > 0
        assert 0 < expected.sum() != (decoded(response, "mask") > 0).sum()
        assert np.array_equal(edit_and_download_mask(page), expected)
        click(page, "Other words, same start")


def test_painting_erasing_and_undo(visit: OpenPage, fast: str) -> None:
    page = visit(fast).page
    upload(page, scene_image())
    fill_prompts(page)
    click(page, "Paint the mask")
    set_range(page, "#brushSize", 100)
    box = page.locator("#maskCanvas").bounding_box()
    assert box is not None

    def stroke(y: float) -> None:
        page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + y * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + y * box["height"], steps=5)
        page.mouse.up()

    stroke(0.25)
    one = mask_share(page)
    assert abs(one - 100 * (0.6 * 0.1 + np.pi * 0.05**2)) < 1
    stroke(0.75)
    two = mask_share(page)
    assert abs(two - 2 * one) < 0.3
    page.get_by_text("Erase", exact=True).click()
    stroke(0.75)
    assert abs(mask_share(page) - one) < 0.3
    click(page, "Undo")
    assert mask_share(page) == two
    click(page, "Redo")
    assert abs(mask_share(page) - one) < 0.3
    click(page, "Invert")
    assert abs(mask_share(page) - (100 - one)) < 0.3
    page.keyboard.press("Control+z")
    assert abs(mask_share(page) - one) < 0.3
    mask = edit_and_download_mask(page)
    assert mask[32, 30:98].all()
    assert not mask[40:].any()


def test_reset_to_the_found_mask_after_clearing(visit: OpenPage, fast: str) -> None:
    page = visit(fast).page
    upload(page, scene_image())
    fill_prompts(page)
    find_mask(page)
    found = mask_share(page)
    click(page, "Clear")
    expect(page.locator("#maskShare")).to_have_text("0.0 % of the image")
    click(page, "Edit")
    expect(page.locator("#maskError")).to_contain_text("The mask is empty")
    click(page, "Reset to the found mask")
    assert abs(mask_share(page) - found) < 0.2 < found  # an estimate, once the mask was painted on
