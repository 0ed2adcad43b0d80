"""The page in a browser: errors, a busy or lost server, reloads and the API key."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import (
    Route,
    expect,
)

from tests.server.page.actions import (
    AFTER,
    BEFORE,
    KEY,
    OpenPage,
    choose_preset,
    click,
    fill_prompts,
    find_mask,
    mask_share,
    scene_image,
    set_shape,
    upload,
    wait_for_result,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_server_error_is_shown(visit: OpenPage, fast: str) -> None:
    visited = visit(fast)
    page = visited.page
    upload(page, scene_image())
    fill_prompts(page, after="poison")
    click(page, "Find the mask")
    expect(page.locator("#notice")).to_contain_text("returned NaN or infinite values")
    expect(page.get_by_role("button", name="Try again")).to_be_visible()
    visited.expect_failed_request(422)
    fill_prompts(page)
    find_mask(page)
    expect(page.locator("#notice")).to_be_hidden()


def test_errors_are_shown_next_to_their_fields(visit: OpenPage, fast: str) -> None:
    visited = visit(fast)
    page = visited.page
    upload(page, scene_image())
    click(page, "Find the mask")
    prompt = page.get_by_label("What should be there")
    expect(page.locator("#promptError")).to_have_text("Describe what should be there.")
    expect(prompt).to_have_attribute("aria-invalid", "true")
    expect(prompt).to_be_focused()
    fill_prompts(page, after="cup " * 2000)
    click(page, "Find the mask")
    expect(page.locator("#promptError")).to_contain_text("4096 bytes")
    visited.expect_failed_request(400)
    fill_prompts(page)
    page.get_by_text("More settings", exact=True).click()
    strength = page.get_by_label("How far from the original")
    expect(strength).to_have_attribute("placeholder", "0.8")
    strength.fill("1.5")
    click(page, "Edit directly")
    expect(page.locator("#error-strength")).to_contain_text("above 0 and at most 1")
    expect(page.locator("#notice")).to_be_hidden()


def test_busy_server_is_retried(visit: OpenPage, slow: str) -> None:
    first, visited = visit(slow), visit(slow)
    for page, seed in ((first.page, 970010), (visited.page, 970011)):
        upload(page, scene_image(seed))
        fill_prompts(page)
        choose_preset(page, "Thorough")
    click(first.page, "Edit directly")
    expect(first.page.locator("#workText")).to_have_text("Preparing the picture")
    page = visited.page
    click(page, "Edit directly")
    expect(page.locator("#workText")).to_have_text(re.compile(r"busy. Trying again in \d+ s"))
    click(page, "Stop")
    expect(page.locator("#work")).to_be_hidden()
    click(page, "Edit directly")
    expect(page.locator("#workText")).to_have_text(re.compile(r"busy. Trying again in \d+ s"))
    wait_for_result(first.page)
    wait_for_result(page)
    visited.expect_failed_request(429)


def test_unknown_job_is_reported(visit: OpenPage, fast: str) -> None:
    visited = visit(fast)
    page = visited.page
    upload(page, scene_image())
    page.evaluate(
        "sessionStorage.setItem('job', JSON.stringify("
        "{ id: 'gone', recipe: { fields: { prompt: 'a cup' }, hasMask: false } }))"
    )
    page.reload()
    expect(page.locator("#notice")).to_contain_text("no longer has this edit")
    visited.expect_failed_request(404)


def test_reload_keeps_the_state(visit: OpenPage, slow: str) -> None:
    page = visit(slow).page
    upload(page, scene_image(970008))
    fill_prompts(page)
    choose_preset(page, "Thorough")
    find_mask(page)
    set_shape(page, "#threshold", 0.2)
    before = mask_share(page)
    click(page, "Edit")
    expect(page.locator("#workText")).to_have_text("Preparing the picture")
    page.reload()
    expect(page.locator("#work")).to_be_visible()
    expect(page.locator("#photoName")).to_have_text("scene.png")
    wait_for_result(page)
    expect(page.locator("#promptAfter")).to_have_text(AFTER)
    page.reload()
    wait_for_result(page)
    click(page, "Other words, same start")
    expect(page.get_by_label("What is there", exact=True)).to_have_value(BEFORE)
    assert mask_share(page) == before


def test_key_is_requested_once(visit: OpenPage, secured: str) -> None:
    visited = visit(secured)
    page = visited.page
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    page.get_by_label("API key", exact=True).fill("a-wrong-key-of-enough-letters")
    page.keyboard.press("Enter")
    expect(page.locator("#keyError")).to_have_text("The server does not know this key.")
    page.get_by_label("API key", exact=True).fill(KEY)
    page.keyboard.press("Enter")
    expect(dialog).to_be_hidden()
    expect(page.locator("#model")).to_contain_text("fake")
    upload(page, scene_image())
    fill_prompts(page)
    click(page, "Edit directly")
    wait_for_result(page)
    expect(dialog).to_be_hidden()
    page.get_by_text("Copy as command or code").click()
    expect(page.locator("#code")).to_contain_text("Bearer $DIFFEDIT_API_KEY")
    expect(page.locator("#code")).not_to_contain_text(KEY)
    visited.expect_failed_request(401)


def test_unreachable_server_is_reported(visit: OpenPage, fast: str) -> None:
    visited = visit(fast)
    page = visited.page
    upload(page, scene_image())
    fill_prompts(page)
    page.route("**/v1/masks", lambda route: route.abort())
    click(page, "Find the mask")
    expect(page.locator("#notice")).to_contain_text("The server cannot be reached")
    page.unroute("**/v1/masks")
    click(page, "Try again")
    expect(page.locator("#maskPanel")).to_be_visible()
    failed = "Failed to load resource: net::ERR_FAILED"
    assert failed in visited.errors
    visited.errors.remove(failed)


def test_interrupted_event_stream_is_resumed(visit: OpenPage, slow: str) -> None:
    """The first event stream ends after one event; the second one resumes after it."""
    visited = visit(slow)
    page = visited.page
    last_event_ids: list[str | None] = []

    def cut(route: Route) -> None:
        last_event_ids.append(route.request.headers.get("last-event-id"))
        if len(last_event_ids) > 1:
            route.continue_()
            return
        first = 'id: 1\r\nevent: state\r\ndata: {"state": "queued", "position": 3}\r\n\r\n'
        route.fulfill(body=first, content_type="text/event-stream")

    page.route("**/v1/jobs/*/events", cut)
    upload(page, scene_image(970009))
    fill_prompts(page)
    click(page, "Edit directly")
    expect(page.locator("#workText")).to_have_text("Waiting, number 3 in the queue")
    wait_for_result(page)
    assert last_event_ids == [None, "1"]
