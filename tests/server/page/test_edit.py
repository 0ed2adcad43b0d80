"""The page in a browser: editing, comparing, continuing with a result."""

from __future__ import annotations

import re

import numpy as np
import pytest
from playwright.sync_api import (
    expect,
)

from demo.picture import still_life
from tests.server.page.actions import (
    AFTER,
    OpenPage,
    choose_preset,
    click,
    download,
    edit_and_download_mask,
    fill_prompts,
    find_mask,
    scene_image,
    statistic,
    upload,
    wait_for_result,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_edit_shows_progress_and_stages(visit: OpenPage, slow: str) -> None:
    page = visit(slow).page
    upload(page, scene_image(970006))
    fill_prompts(page)
    choose_preset(page, "Thorough")  # its stages are long enough to be seen
    click(page, "Edit directly")
    words, bar = page.locator("#workText"), page.locator("#track")
    expect(words).to_have_text("Preparing the picture")
    expect(words).to_have_text("Changing the picture")
    expect(bar).to_have_attribute("aria-valuenow", re.compile(r"^[3-9]\d$"))
    expect(page.locator("#after")).to_have_attribute("src", re.compile("^data:image/png"))
    wait_for_result(page)
    expect(page.locator("#after")).to_have_attribute("src", re.compile("^blob:"))
    expect(page.locator("#announcement")).to_have_text(re.compile(r"Edited in [\d.]+ s\."))


def test_preview_is_shown_inside_the_mask_only(visit: OpenPage, slow: str) -> None:
    page = visit(slow).page
    upload(page, scene_image(970012))
    fill_prompts(page)
    click(page, "Paint the mask")
    page.locator("#maskCanvas").press(" ")
    click(page, "Edit")
    after = page.locator("#after")
    expect(after).to_have_attribute("src", re.compile("^data:image/png"))
    assert page.evaluate("getComputedStyle(after).maskImage").startswith('url("blob:')
    wait_for_result(page)
    assert page.evaluate("getComputedStyle(after).maskImage") == "none"


def test_result_equals_the_image_outside_the_mask(visit: OpenPage, fast: str) -> None:
    page = visit(fast).page
    photo = still_life(144, 112)
    upload(page, photo, "table.png")
    fill_prompts(page)
    choose_preset(page, "Thorough")
    find_mask(page)
    mask = edit_and_download_mask(page)
    image = download(page, "Save image")
    assert image.shape == (112, 144, 3)
    changed = (image != np.asarray(photo)).any(-1)
    assert changed.any()
    assert not changed[~mask].any()
    assert statistic(page, "Changes outside the mask") == "none"
    assert statistic(page, "Work of the model") == "120 passes"
    assert re.match(r"[\d.]+ s", statistic(page, "Time"))
    assert statistic(page, "Edited area").split("\n")[0] == f"{100 * mask.mean():.1f} %"
    assert page.locator("#saveImage").get_attribute("download") == "table.edited.seed0.png"


def test_comparing_before_and_after(visit: OpenPage, fast: str) -> None:
    page = visit(fast).page
    upload(page, scene_image())
    fill_prompts(page)
    click(page, "Edit directly")
    wait_for_result(page)
    slider = page.get_by_role("slider", name="Share of the original image")
    expect(slider).to_have_attribute("aria-valuenow", "4")  # it opens on the result
    slider.focus()
    keys = {"ArrowLeft": "2", "Shift+ArrowRight": "12", "Home": "0", "End": "100"}
    for key, value in keys.items():
        page.keyboard.press(key)
        expect(slider).to_have_attribute("aria-valuenow", value)
    box = page.locator("#frame").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.9 * box["width"], box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 20, steps=3)
    page.mouse.up()
    expect(slider).to_have_attribute("aria-valuenow", "25")
    clip = page.locator("#after").evaluate("(image) => getComputedStyle(image).clipPath")
    assert clip == "inset(0px 0px 0px 25%)"


def test_cancel_stops_the_job(visit: OpenPage, slow: str) -> None:
    page = visit(slow).page
    upload(page, scene_image(970007))
    fill_prompts(page)
    choose_preset(page, "Thorough")
    with page.expect_response("**/v1/jobs") as accepted:
        click(page, "Edit directly")
    expect(page.locator("#workText")).to_have_text("Preparing the picture")
    click(page, "Cancel")
    expect(page.locator("#work")).to_be_hidden()
    expect(page.locator("#result")).to_be_hidden()
    expect(page.locator("#notice")).to_be_hidden()
    job = accepted.value.json()["id"]
    assert page.request.get(f"{slow}/v1/jobs/{job}").json()["state"] == "cancelled"


def test_second_edit_of_an_image_is_faster(visit: OpenPage, fast: str) -> None:
    page = visit(fast).page
    upload(page, still_life(97, 128))  # an image that is not cached
    fill_prompts(page)
    choose_preset(page, "Thorough")
    find_mask(page)
    click(page, "Edit")
    wait_for_result(page)
    expect(page.locator("#speedup")).to_be_hidden()
    click(page, "Other words, same start")
    prompt = page.get_by_label("What should be there")
    expect(prompt).to_be_focused()
    prompt.fill("a blue cup")
    click(page, "Edit")
    wait_for_result(page)
    expect(page.locator("#speedup")).to_contain_text("80 passes instead of 120")
    history = page.locator("#history button")
    expect(history).to_have_count(3)
    expect(history.nth(2)).to_have_attribute("aria-pressed", "true")
    history.nth(1).click()
    expect(page.locator("#promptAfter")).to_have_text(AFTER)


def test_continue_with_a_result(visit: OpenPage, fast: str) -> None:
    page = visit(fast).page
    upload(page, scene_image())
    fill_prompts(page)
    click(page, "Edit directly")
    wait_for_result(page)
    first = download(page, "Save image")
    click(page, "Go on from this result")
    expect(page.get_by_label("What is there", exact=True)).to_have_value(AFTER)
    expect(page.locator("#maskPanel")).to_be_hidden()
    page.get_by_label("What should be there").fill("a blue cup on a table")
    assert find_mask(page)["previous_edit_id"]
    mask = edit_and_download_mask(page)
    second = download(page, "Save image")
    assert (second != first).any()
    assert (second == first)[~mask].all(), "no drift outside the mask"
    history = page.locator("#history button")
    expect(history).to_have_count(3)
    history.nth(0).click()  # back to the original
    expect(page.locator("#editForm")).to_be_visible()
    history.nth(2).click()
    expect(page.locator("#resultTitle")).to_have_text("Edited, from step 1")


def test_variations(visit: OpenPage, fast: str) -> None:
    page = visit(fast).page
    upload(page, scene_image())
    fill_prompts(page)
    page.get_by_label("Variations").select_option("2")
    click(page, "Edit directly")
    wait_for_result(page)
    expect(page.locator("#history button")).to_have_count(3)
    seeds = []
    for index in (1, 2):
        page.locator("#history button").nth(index).click()
        seeds.append(statistic(page, "Seed"))
    assert seeds == ["0", "1"]


def test_escape_cancels(visit: OpenPage, slow: str) -> None:
    page = visit(slow).page
    upload(page, scene_image(970021))
    fill_prompts(page)
    choose_preset(page, "Thorough")
    click(page, "Edit directly")
    expect(page.locator("#workText")).to_have_text("Preparing the picture")
    page.keyboard.press("Escape")
    expect(page.locator("#work")).to_be_hidden()
    expect(page.locator("#result")).to_be_hidden()


def test_code_snippets(visit: OpenPage, fast: str) -> None:
    page = visit(fast).page
    upload(page, scene_image(), "it's.png")
    fill_prompts(page, after='a "green" cup; it\'s $new')
    page.get_by_text("More settings", exact=True).click()
    page.get_by_label("Seed", exact=True).fill("7")
    page.get_by_text("Copy as command or code").click()
    code = page.locator("#code")
    snippets = {}
    for language in ("Shell", "curl", "Python", "OpenAI"):
        page.locator("#languages").get_by_text(language, exact=True).click()
        snippets[language] = code.inner_text()
    quoted = "'a \"green\" cup; it'\\''s $new'"
    assert f"diffedit-trt edit 'it'\\''s.png' \\\n  --prompt {quoted}" in snippets["Shell"]
    assert "--seed 7" in snippets["Shell"]
    assert f"--form-string 'prompt={quoted[1:]}" in snippets["curl"]
    for language in ("Python", "OpenAI"):
        compile(snippets[language], language, "exec")
        assert r'"a \"green\" cup; it' in snippets[language]
    assert "seed=7" in snippets["Python"]
    assert '"seed": 7' in snippets["OpenAI"]


def test_user_input_is_never_html(visit: OpenPage, fast: str) -> None:
    page = visit(fast).page
    upload(page, scene_image(), "<img src=x>.png")
    fill_prompts(page, before="<b>cup</b>", after="<img src=/nowhere onerror=alert(1)>")
    click(page, "Edit directly")
    wait_for_result(page)
    expect(page.locator("#promptBefore")).to_have_text("<b>cup</b>")
    expect(page.locator("#promptAfter")).to_have_text("<img src=/nowhere onerror=alert(1)>")
    assert page.locator("#promptAfter > *, #promptBefore > *, #photoName > *").count() == 0
