"""The page in a browser: keyboard, narrow screens, contrast and reduced motion."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import (
    Browser,
    expect,
)

from demo.picture import still_life
from tests.server.page.actions import (
    AFTER,
    BEFORE,
    OpenPage,
    click,
    fill_prompts,
    find_mask,
    mask_share,
    payload,
    scene_image,
    upload,
    wait_for_result,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_keyboard_only(visit: OpenPage, fast: str) -> None:
    page = visit(fast).page
    page.on("filechooser", lambda _: None)  # otherwise Chromium opens its own dialog
    page.keyboard.press("Tab")
    expect(page.locator("#drop")).to_be_focused()
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(payload(scene_image(), "scene.png"))
    expect(page.locator("#frame")).to_be_visible()

    def reach(selector: str) -> None:
        for _ in range(30):
            if page.locator(selector).evaluate("(e) => e === document.activeElement"):
                return
            page.keyboard.press("Tab")
        pytest.fail(f"{selector} cannot be reached with Tab")

    reach("#source")
    page.keyboard.type(BEFORE)
    page.keyboard.press("Tab")
    page.keyboard.type(AFTER)
    page.keyboard.press("Enter")
    expect(page.locator("#maskPanel")).to_be_visible()
    expect(page.locator("#submitButton")).to_be_focused()
    found = mask_share(page)
    page.locator("#newImage").focus()
    reach("#maskCanvas")
    page.keyboard.press("]")
    for key in ("ArrowLeft", "ArrowUp", " ", "ArrowLeft", " "):
        page.keyboard.press(key)
    painted = mask_share(page)
    assert painted > found
    reach("#threshold")
    page.keyboard.press("End")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#thresholdValue")).to_have_text("0.98")
    page.wait_for_function(
        "(most) => parseFloat(maskShare.textContent) < most", arg=painted, timeout=60_000
    )
    assert mask_share(page) > 0
    reach("#undo")
    page.keyboard.press("Space")
    reach("#submitButton")
    page.keyboard.press("Enter")
    wait_for_result(page)
    expect(page.locator("#divider")).to_be_focused()
    before = int(page.locator("#divider").get_attribute("aria-valuenow") or -1)
    page.keyboard.press("ArrowRight")
    expect(page.locator("#divider")).to_have_attribute("aria-valuenow", str(before + 2))


def test_no_horizontal_overflow_at_phone_width(visit: OpenPage, fast: str) -> None:
    page = visit(fast, width=390).page

    def fits() -> bool:
        inside = "document.documentElement.scrollWidth <= innerWidth"
        return bool(page.evaluate(inside)) and page.evaluate("innerWidth") == 390

    assert fits()
    upload(page, still_life(300, 60), "a-rather-long-name-without-any-spaces-" * 3 + ".png")
    fill_prompts(page, after="unbrokenwords" * 20)
    page.get_by_text("More settings", exact=True).click()
    page.get_by_text("Copy as command or code").click()
    assert fits()
    fill_prompts(page)
    find_mask(page)
    assert fits()
    click(page, "Edit")
    wait_for_result(page)
    assert fits()


CONTRAST = """() => {
  const linear = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const parts = (text) => text.match(/[\\d.]+/g).map(Number);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const colour = parts(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
  };
  const texts = document.querySelectorAll("h1, h2, p, label, button, summary, dt, dd, a, small");
  return [...texts]
    .filter((e) => e.checkVisibility() && e.innerText && !e.disabled)
    .filter((e) => !e.matches(".visually-hidden"))
    .map((e) => {
      const [a, b] = [parts(getComputedStyle(e).color), behind(e)].map(light).sort((x, y) => x - y);
      return [(b + 0.05) / (a + 0.05), e.innerText.slice(0, 40)];
    });
}"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_contrast(visit: OpenPage, fast: str, dark: bool) -> None:
    page = visit(fast, dark=dark).page
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    red = int(re.findall(r"\d+", paper)[0])
    assert red < 60 if dark else red > 200

    def lowest_contrast() -> tuple[float, str]:
        contrasts = page.evaluate(CONTRAST)
        assert len(contrasts) > 5
        ratio, text = min(contrasts)
        return float(ratio), str(text)

    assert lowest_contrast() > (4.5, "")
    upload(page, scene_image())
    fill_prompts(page)
    find_mask(page)
    assert lowest_contrast() > (4.5, "")
    click(page, "Edit")
    wait_for_result(page)
    assert lowest_contrast() > (4.5, "")


def test_reduced_motion_turns_transitions_off(browser: Browser, fast: str) -> None:
    context = browser.new_context(reduced_motion="reduce")
    page = context.new_page()
    page.goto(fast)
    expect(page.locator("#drop")).to_be_visible()
    moving = page.locator("#drop").evaluate("(e) => getComputedStyle(e).transitionProperty")
    assert moving == "none"
    context.close()
