"""A first visit to the page with the demo's model: ten steps without a manual."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from playwright.sync_api import Page, expect

from tests.server.helpers import ROOT, free_port
from tests.server.page.actions import (
    OpenPage,
    click,
    decoded,
    download,
    find_mask,
    payload,
    set_shape,
    wait_for_result,
)
from tests.server.page.conftest import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CUBE = np.s_[215:310, 60:150]
"""Rows and columns of the example picture (384 pixels) within its cube."""
CONE = np.s_[200:270, 235:290]


@pytest.fixture(scope="module")
def demo() -> Iterator[str]:
    """The URL of `diffedit-trt serve`, which serves the demo's model."""
    port = free_port()
    command = [sys.executable, "-m", "diffedit.cli", "serve", "--port", str(port)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    yield Server(process, f"http://127.0.0.1:{port}").wait()
    process.kill()
    process.wait()


def edit(page: Page, prompt: str) -> NDArray[np.uint8]:
    page.get_by_label("What should be there").fill(prompt)
    click(page, "Edit")
    wait_for_result(page)
    return download(page, "Save image")


def color(image: NDArray[np.uint8], part: tuple[slice, slice]) -> str:
    """The channel that is brightest in a part of a picture."""
    return ("red", "green", "blue")[int(image[part].mean((0, 1)).argmax())]


def network_calls(page: Page, url: str) -> list[str]:
    lines = page.request.get(f"{url}/metrics").text().splitlines()
    return [line for line in lines if line.startswith("diffedit_network_calls_total")]


def test_ten_first_steps_with_the_demos_model(visit: OpenPage, demo: str) -> None:
    page = visit(demo).page
    history = page.locator("#history button")
    # 1. Read what the model knows, and choose one of its pictures: its texts come with it.
    expect(page.locator("#about")).to_contain_text("still lifes", timeout=120_000)
    page.locator("#exampleList button").first.click()
    expect(page.locator("#photoName")).to_have_text("black-cube.webp")
    original = np.asarray(Image.open(ROOT / "demo/model/examples/black-cube.webp").convert("RGB"))
    expect(page.get_by_label("What should be there")).to_have_value(re.compile("^a red cube"))
    # 2. Press the main button: the mask is on the cube, and on nothing else.
    found = find_mask(page)
    mask = decoded(found, "mask") > 0
    assert mask[CUBE].mean() > 0.6
    assert mask[CONE].mean() < 0.05
    # 3. Look closely, and see all of it again.
    click(page, "Zoom in")
    click(page, "Zoom in")
    expect(page.locator("#zoomValue")).to_have_text("156 %")
    click(page, "Fit")
    # 4. Change the outline and move every slider; no network runs.
    calls = network_calls(page, demo)
    set_shape(page, "#cleaning", "none")
    set_shape(page, "#threshold", 0.4)
    set_shape(page, "#grow", 1)
    set_shape(page, "#cleaning", "edges")
    assert network_calls(page, demo) == calls
    # 5. Edit: the cube is red, and no other pixel has changed.
    click(page, "Edit")
    wait_for_result(page)
    red, used = download(page, "Save image"), download(page, "Save mask") > 0
    assert color(red, CUBE) == "red"
    assert (red == original)[~used].all()
    expect(page.locator("#stats")).to_contain_text("Changes outside the masknone")
    # 6. Compare before and after.
    page.locator("#divider").press("End")
    expect(page.locator("#divider")).to_have_attribute("aria-valuenow", "100")
    # 7. Other words from the same start: texts and mask are still there.
    click(page, "Other words, same start")
    green = edit(page, "a green cube and a yellow cone on a checked cloth")
    assert color(green, CUBE) == "green"
    # 8. Go on from the result, with another object.
    click(page, "Go on from this result")
    page.get_by_label("What should be there").fill(
        "a green cube and a blue cone on a checked cloth"
    )
    assert (decoded(find_mask(page), "mask") > 0)[CONE].mean() > 0.5
    both = edit(page, "a green cube and a blue cone on a checked cloth")
    assert (both[CUBE] == green[CUBE]).mean() > 0.9
    assert color(both, CONE) == "blue"
    # 9. Choose an earlier step: it is as it was. Try it again with another seed.
    history.nth(1).click()
    assert (download(page, "Save image") == red).all()
    click(page, "Again with another seed")
    wait_for_result(page)
    expect(history).to_have_count(5)
    # 10. Bring a mask from a file, edit with it, and reload: every step is still there.
    click(page, "Other words, same start")
    own = Image.new("L", (384, 384))
    ImageDraw.Draw(own).rectangle([35, 185, 175, 340], 255)
    page.set_input_files("#maskFile", payload(own, "own.png"))
    expect(page.locator("#maskShare")).to_have_text(
        f"{100 * (np.asarray(own) > 0).mean():.1f} % of the image"
    )
    purple = edit(page, "a purple cube and a yellow cone on a checked cloth")
    assert (purple == original)[np.asarray(own) == 0].all()
    page.reload()
    expect(history).to_have_count(6)
    expect(page.locator("#notice")).to_be_hidden()
