"""A first visit to the page: ten steps without a manual."""

from __future__ import annotations

import re

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from tests.server.page.actions import (
    OpenPage,
    choose_preset,
    click,
    download,
    fill_prompts,
    find_mask,
    mask_share,
    scene_image,
    set_range,
    set_shape,
    upload,
    wait_for_result,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def draw(page: Page, y: float) -> None:
    """A stroke across the picture."""
    box = page.locator("#maskCanvas").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + y * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + y * box["height"], steps=6)
    page.mouse.up()


def test_ten_first_steps(visit: OpenPage, fast: str) -> None:
    page = visit(fast).page
    # 1. Open a picture.
    upload(page, scene_image(970031), "table.png")
    original = np.asarray(scene_image(970031))
    # 2. Press the main button at once: the missing text is named beside its field.
    click(page, "Find the mask")
    expect(page.locator("#promptError")).to_have_text("Describe what should be there.")
    # 3. Write the texts, read what the choices mean, and look for the mask.
    fill_prompts(page)
    for preset in ("Draft", "Instant", "Thorough", "Balanced"):
        choose_preset(page, preset)
        expect(page.locator("#presetHint")).to_have_text(re.compile(r"^[AT].*\.$"))
    find_mask(page)
    # 4. Move every control of the mask; no network runs.
    calls = page.request.get(f"{fast}/metrics").text()
    found = mask_share(page)
    set_shape(page, "#threshold", 0.2)
    assert mask_share(page) > found
    set_shape(page, "#grow", 2)
    set_shape(page, "#feather", 0.05)
    set_shape(page, "#cleaning", "none")
    refined = set_shape(page, "#threshold", 0.6)
    name = "diffedit_network_calls_total"
    rows = [line for line in calls.splitlines() if line.startswith(name)]
    assert rows == [
        line
        for line in page.request.get(f"{fast}/metrics").text().splitlines()
        if line.startswith(name)
    ]
    # 5. Edit with it: the same mask is used, without an upload.
    with page.expect_response("**/v1/jobs") as accepted:
        click(page, "Edit")
    wait_for_result(page)
    job = page.request.get(f"{fast}/v1/jobs/{accepted.value.json()['id']}").json()
    assert job["data"][0]["mask_id"] == refined["mask_id"]
    first, mask = download(page, "Save image"), download(page, "Save mask") > 0
    assert (first == original)[~mask].all()
    # 6. Other words: texts and mask are still there.
    click(page, "Other words, same start")
    expect(page.locator("#thresholdValue")).to_have_text("0.60")
    # 7. Paint over it with a soft brush, and undo it.
    share = mask_share(page)
    set_range(page, "#softness", 0.8)
    draw(page, 0.1)
    assert mask_share(page) > share
    click(page, "Undo")
    assert mask_share(page) == share  # the server's own figure again
    draw(page, 0.1)
    page.get_by_label("What should be there").fill("a blue bowl on a table")
    click(page, "Edit")
    wait_for_result(page)
    soft = download(page, "Save mask")
    assert soft[13, 64] > 0
    # 8. Go on from this result, twice.
    for words in ("a green bowl", "a white bowl"):
        click(page, "Go on from this result")
        page.get_by_label("What should be there").fill(words)
        find_mask(page)
        click(page, "Edit")
        wait_for_result(page)
    history = page.locator("#history button")
    expect(history).to_have_count(5)
    # 9. Go back to an earlier step and branch from it; nothing is lost.
    history.nth(1).click()
    expect(page.locator("#promptAfter")).to_have_text("a green cup on a table")
    assert (download(page, "Save image") == first).all()
    click(page, "Again with another seed")
    wait_for_result(page)
    expect(history).to_have_count(6)
    # 10. Reload the page: every step is still there, and so is the code for it.
    page.reload()
    expect(page.locator("#history button")).to_have_count(6)
    page.get_by_text("Copy as command or code").click()
    expect(page.locator("#code")).to_contain_text("mask_threshold=0.6")
    expect(page.locator("#notice")).to_be_hidden()


def test_expired_results_are_sent_again(visit: OpenPage, fast: str) -> None:
    """The server forgets results after a while; the browser still has the pictures."""
    visited = visit(fast)
    page = visited.page
    upload(page, scene_image(970032))
    fill_prompts(page)
    find_mask(page)
    page.evaluate(
        "import('/mask.js').then(({ maskState: { found } }) => {"
        " found.source.response.mask_id = 'gone'; })"
    )
    click(page, "Edit")
    wait_for_result(page)
    visited.expect_failed_request(404)
    click(page, "Other words, same start")
    page.locator("#threshold").fill("0.3")
    expect(page.locator("#maskError")).to_contain_text("find it again")
    visited.expect_failed_request(404)
    click(page, "Find again")
    expect(page.locator("#work")).to_be_hidden()
    set_shape(page, "#threshold", 0.3)
    expect(page.locator("#maskError")).to_be_empty()
