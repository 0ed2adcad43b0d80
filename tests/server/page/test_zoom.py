"""The page in a browser: zoom and pan by wheel, buttons, keys and fingers, and painting zoomed."""

from __future__ import annotations

import re

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from demo.picture import still_life
from tests.server.page.actions import (
    OpenPage,
    click,
    edit_and_download_mask,
    fill_prompts,
    scene_image,
    set_range,
    upload,
    wait_for_result,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def view(page: Page) -> tuple[float, float, float]:
    """Zoom, and the shift of the picture in shares of the frame."""
    script = "import('/view.js').then(({ view: { zoom, x, y } }) => [zoom, x, y])"
    zoom, x, y = page.evaluate(script)
    return zoom, x, y


def frame_box(page: Page) -> tuple[float, float, float, float]:
    box = page.locator("#frame").bounding_box()
    assert box is not None
    return box["x"], box["y"], box["width"], box["height"]


def move(page: Page, x: float, y: float) -> None:
    """Move the mouse to a position in the frame, in shares of its sides."""
    left, top, width, height = frame_box(page)
    page.mouse.move(left + x * width, top + y * height)


def drag(page: Page, begin: tuple[float, float], end: tuple[float, float], button: str) -> None:
    move(page, *begin)
    page.mouse.down(button=button)  # type: ignore[arg-type]
    for k in range(1, 6):
        move(page, *(a + (b - a) * k / 5 for a, b in zip(begin, end, strict=True)))
    page.mouse.up(button=button)  # type: ignore[arg-type]


def test_wheel_keeps_the_place_under_the_pointer(visit: OpenPage, fast: str) -> None:
    page = visit(fast).page
    upload(page, still_life(300, 200))
    expect(page.locator("#zoomFit")).to_be_disabled()
    move(page, 0.25, 0.75)
    page.mouse.wheel(0, -400)
    page.wait_for_function("document.querySelector('.zoomed')")
    zoom, x, y = view(page)
    assert 1.5 < zoom <= 4
    assert ((0.25 - x) / zoom, (0.75 - y) / zoom) == pytest.approx((0.25, 0.75), abs=0.01)
    expect(page.locator("#zoomValue")).to_have_text(f"{100 * zoom:.0f} %")
    shown = page.locator("#before").bounding_box()
    assert shown is not None
    _, _, width, _ = frame_box(page)
    assert shown["width"] == pytest.approx(zoom * width, rel=0.01)
    click(page, "Fit")
    assert view(page) == (1, 0, 0)


def test_keys_and_buttons_zoom_and_move(visit: OpenPage, fast: str) -> None:
    page = visit(fast).page
    upload(page, still_life(300, 200))
    page.locator("#zoomIn").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("+")
    assert view(page) == pytest.approx((1.5625, -0.28125, -0.28125))
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowUp")
    assert view(page) == pytest.approx((1.5625, -0.40625, -0.15625))
    for _ in range(9):
        page.keyboard.press("ArrowUp")
    assert view(page)[2] == 0, "the picture stays in the frame"
    page.keyboard.press("-")
    assert view(page)[0] == pytest.approx(1.25)
    page.keyboard.press("0")
    assert view(page) == (1, 0, 0)
    page.get_by_label("What should be there").press_sequentially("a 0+-")
    assert view(page) == (1, 0, 0), "no shortcut in a text field"


def test_painting_is_exact_under_zoom(visit: OpenPage, fast: str) -> None:
    """The stroke is where the brush was, in the picture's own pixels."""
    page = visit(fast).page
    upload(page, still_life(1200, 800))
    fill_prompts(page)
    click(page, "Paint the mask")
    page.locator("#brushSize").focus()
    set_range(page, "#brushSize", 20)  # 24 pixels
    move(page, 0.5, 0.5)
    for _ in range(3):
        page.mouse.wheel(0, -300)
    page.wait_for_function("document.querySelector('.zoomed')")
    zoom, x, y = view(page)
    drag(page, (0.3, 0.4), (0.7, 0.4), "left")
    left, right = ((at - x) / zoom * 1200 for at in (0.3, 0.7))
    row = (0.4 - y) / zoom * 800
    mask = edit_and_download_mask(page)
    rows, columns = np.nonzero(mask)
    assert (columns.min(), columns.max()) == pytest.approx((left - 12, right + 11), abs=2)
    assert (rows.min(), rows.max()) == pytest.approx((row - 12, row + 11), abs=2)


def test_move_tool_and_middle_button(visit: OpenPage, fast: str) -> None:
    page = visit(fast).page
    upload(page, scene_image())
    click(page, "Paint the mask")
    click(page, "Zoom in")
    click(page, "Zoom in")
    before = view(page)
    drag(page, (0.5, 0.5), (0.6, 0.4), "middle")
    assert view(page)[1:] == pytest.approx((before[1] + 0.1, before[2] - 0.1), abs=0.01)
    page.locator(".tools").get_by_text("Move").click()
    drag(page, (0.6, 0.4), (0.5, 0.5), "left")
    assert view(page) == pytest.approx(before, abs=0.01)
    expect(page.locator("#undo")).to_be_disabled()  # nothing was painted


def test_divider_under_zoom(visit: OpenPage, fast: str) -> None:
    """Dragging the divider compares, dragging the picture moves it."""
    page = visit(fast).page
    upload(page, scene_image())
    fill_prompts(page)
    click(page, "Edit directly")
    wait_for_result(page)
    click(page, "Zoom in")
    split = float(page.locator("#divider").get_attribute("aria-valuenow") or 0)
    drag(page, (0.6, 0.5), (0.5, 0.5), "left")
    assert view(page)[1] == pytest.approx(-0.225, abs=0.01)
    drag(page, (split / 100, 0.3), (0.55, 0.3), "left")
    expect(page.locator("#divider")).to_have_attribute("aria-valuenow", "55")
    clip = page.locator("#after").evaluate("(image) => getComputedStyle(image).clipPath")
    shown = re.search(r"([\d.]+)%\)$", clip) or re.search(r"calc\((.*)\)", clip)
    assert shown is not None, clip
    drawn = page.locator("#after").bounding_box()
    _, _, width, _ = frame_box(page)
    assert drawn is not None
    assert drawn["width"] == pytest.approx(1.25 * width, rel=0.01)


def pinch(page: Page, begin: float, end: float) -> None:
    """Two fingers around the middle of the frame, `begin` and then `end` apart."""
    left, top, width, height = frame_box(page)
    session = page.context.new_cdp_session(page)

    def send(kind: str, distance: float) -> None:
        points = [
            {"x": left + (0.5 + side * distance / 2) * width, "y": top + height / 2, "id": finger}
            for finger, side in enumerate((-1, 1))
        ]
        touches = [] if kind == "touchEnd" else points
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})

    one = [{"x": left + (0.5 - begin / 2) * width, "y": top + height / 2, "id": 0}]
    session.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": one})
    send("touchStart", begin)
    for k in range(1, 9):
        send("touchMove", begin + (end - begin) * k / 8)
    send("touchEnd", end)


def test_two_fingers_zoom_and_one_paints_at_phone_width(browser: Browser, fast: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True)
    page = context.new_page()
    page.goto(fast)
    page.locator("#drop").wait_for()
    upload(page, scene_image())
    click(page, "Paint the mask")
    pinch(page, 0.2, 0.5)
    assert view(page) == pytest.approx((2.5, -0.75, -0.75), abs=0.1)
    expect(page.locator("#undo")).to_be_disabled()  # the first finger's dot was dropped
    left, top, width, height = frame_box(page)
    page.touchscreen.tap(left + width / 2, top + height / 2)
    expect(page.locator("#undo")).to_be_enabled()
    points = page.evaluate("import('/mask.js').then((m) => m.maskState.strokes[0].points[0])")
    assert points == pytest.approx([64, 64], abs=2)
    inside = "document.documentElement.scrollWidth <= innerWidth"
    assert page.evaluate(inside)
    context.close()
