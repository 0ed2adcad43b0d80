"""A reload of the tab loses nothing that was shown, however soon it comes."""

from __future__ import annotations

import numpy as np
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


def test_each_picture_has_its_own_history_also_after_a_reload(visit: OpenPage, fast: str) -> None:
    """Of the same length, so that only the texts tell them apart."""
    page = visit(fast).page
    for name, seed, prompt in (("first", 970_005, "a blue cup"), ("second", 970_041, "a red box")):
        if name == "first":
            upload(page, scene_image(seed), "first.png")
        else:
            drop(page, scene_image(seed), "second.png")
            click(page, "A new picture")
            expect(page.locator("#historyPanel")).to_be_hidden()
        fill_prompts(page, after=prompt)
        click(page, "Edit directly")
        expect(page.locator("#result")).to_be_visible()
    history = page.locator("#history button")
    for name, prompt in 2 * (("first", "a blue cup"), ("second", "a red box")):
        click(page, f"Back to {name}.png")
        expect(page.locator("#photoName")).to_have_text(f"{name}.png")
        expect(history).to_have_count(2)
        expect(history.nth(1)).to_contain_text(prompt)
        page.reload()
        expect(page.locator("#photoName")).to_have_text(f"{name}.png")
        expect(history.nth(1)).to_contain_text(prompt)
        expect(page.locator("#result")).to_be_visible()


COUNT_STORED = """() => {
  const put = IDBObjectStore.prototype.put;
  window.stored = 0;
  IDBObjectStore.prototype.put = function (value, key) {
    const blobs = (one) => one instanceof Blob ? 1
      : one && typeof one === "object" ? Object.values(one).reduce((n, v) => n + blobs(v), 0) : 0;
    window.stored += blobs(value);
    return put.call(this, value, key);
  };
}"""


def test_an_edit_is_stored_once(visit: OpenPage, fast: str) -> None:
    """Storing all of them at every step would grow with the square of their number."""
    page = visit(fast).page
    upload(page, scene_image(970_051), "scene.png")
    fill_prompts(page)
    page.evaluate(COUNT_STORED)
    stored = []
    for number in range(1, 5):
        if number > 1:
            click(page, "Again with another seed")
        else:
            click(page, "Edit directly")
        expect(page.locator("#history button")).to_have_count(1 + number)
        expect(page.locator("#work")).to_be_hidden()
        stored.append(page.evaluate("window.stored"))
    assert stored[0] >= 1, "the picture of the edit"
    assert np.diff(stored).tolist() == [stored[0]] * 3
    drop(page, scene_image(970_053), "second.png")
    click(page, "A new picture")
    expect(page.locator("#photoName")).to_have_text("second.png")
    before = page.evaluate("window.stored")
    click(page, "Back to scene.png")
    expect(page.locator("#photoName")).to_have_text("scene.png")
    assert page.evaluate("window.stored") == before


STORED_NAMES = """() => new Promise((resolve) => {
  indexedDB.open("diffedit").onsuccess = ({ target: { result } }) => {
    result.transaction("tabs").objectStore("tabs").getAllKeys().onsuccess = ({ target }) =>
      resolve(target.result.map(([, name]) => name));
  };
})"""


def test_a_dropped_picture_is_deleted(visit: OpenPage, fast: str) -> None:
    page = visit(fast).page
    upload(page, scene_image(), "1.png")
    for number in range(2, 5):
        drop(page, scene_image(970_060 + number), f"{number}.png")
        click(page, "A new picture")
        expect(page.locator("#photoName")).to_have_text(f"{number}.png")
    names = page.evaluate(STORED_NAMES)
    assert sum(name.endswith(" photo") for name in names) == 2
    page.reload()
    expect(page.locator("#photoName")).to_have_text("4.png")
    click(page, "Back to 3.png")
    expect(page.locator("#photoName")).to_have_text("3.png")


STORE_TABS = """(tabs) => new Promise((resolve) => {
  indexedDB.open("diffedit").onsuccess = ({ target: { result } }) => {
    const change = result.transaction("tabs", "readwrite");
    for (const [tab, name, hours] of tabs)
      change.objectStore("tabs").put({ kept: 1, at: Date.now() - hours * 3600000 }, [tab, name]);
    change.oncomplete = resolve;
  };
})"""


def test_a_tab_that_was_left_for_a_day_is_deleted_and_one_in_use_is_whole(
    visit: OpenPage, fast: str
) -> None:
    page = visit(fast).page
    upload(page, scene_image(), "own.png")
    used = [["used", "1 photo", 50], ["used", "1 editor", 1]]
    page.evaluate(STORE_TABS, [*used, ["left", "2 photo", 50], ["left", "2 editor", 25]])
    page.reload()
    expect(page.locator("#photoName")).to_have_text("own.png")
    names = page.evaluate(STORED_NAMES)
    assert {"1 photo", "1 editor"} <= set(names)
    assert not {"2 photo", "2 editor"} & set(names)
