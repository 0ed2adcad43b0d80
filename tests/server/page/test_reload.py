"""A reload of the tab loses nothing that was shown, however soon it comes."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.server.page.actions import (
    OpenPage,
    click,
    drop,
    fill_prompts,
    find_mask,
    scene_image,
    upload,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# Reloads the page in the moment in which an element is shown or hidden, or gets another text.
RELOAD_ON_CHANGE = """(id) => {
  const watched = document.getElementById(id);
  const shown = () => (watched.hidden ? "" : watched.textContent);
  const before = shown();
  new MutationObserver(() => shown() !== before && location.reload())
    .observe(watched, { attributeFilter: ["hidden"], childList: true });
}"""


def reload_on_change(page: Page, selector: str, action: str) -> None:
    """Click a button; the page is loaded anew as soon as an element shows the click's effect."""
    page.evaluate(RELOAD_ON_CHANGE, selector)
    with page.expect_event("load"):
        click(page, action)


def test_a_reload_keeps_the_picture_that_was_just_shown(visit: OpenPage, fast: str) -> None:
    page = visit(fast).page
    upload(page, scene_image(), "first.png")
    drop(page, scene_image(970_041), "second.png")
    click(page, "A new picture")
    expect(page.locator("#photoName")).to_have_text("second.png")
    for name in 3 * ("first.png", "second.png"):
        reload_on_change(page, "photoName", f"Back to {name}")
        expect(page.locator("#photoName")).to_have_text(name)


def test_a_reload_keeps_the_mask_and_the_result_that_were_just_shown(
    visit: OpenPage, fast: str
) -> None:
    page = visit(fast).page
    upload(page, scene_image(970_047), "scene.png")
    fill_prompts(page)
    reload_on_change(page, "maskPanel", "Find the mask")
    expect(page.locator("#maskPanel")).to_be_visible()
    expect(page.locator("#maskShare")).to_contain_text("% of the image")
    reload_on_change(page, "result", "Edit")
    expect(page.locator("#result")).to_be_visible()
    click(page, "Other words, same start")
    expect(page.locator("#maskPanel")).to_be_visible()


def test_a_reload_keeps_the_step_that_was_just_chosen(visit: OpenPage, fast: str) -> None:
    page = visit(fast).page
    upload(page, scene_image(970_049), "scene.png")
    fill_prompts(page)
    find_mask(page)
    click(page, "Edit")
    expect(page.locator("#result")).to_be_visible()
    reload_on_change(page, "result", "The original")
    expect(page.locator("#result")).to_be_hidden()
    expect(page.locator("#history button")).to_have_count(2)
