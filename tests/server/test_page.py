"""The page in a real browser, against servers with fake networks.

Every test also fails on console errors, uncaught exceptions and violations of the page's
Content-Security-Policy. Tests that provoke HTTP errors declare them.
"""

from __future__ import annotations

import base64
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx2 as httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    FilePayload,
    Page,
    Route,
    expect,
    sync_playwright,
)

from demo.picture import still_life
from demo.scenes import scene
from diffedit.imaging.geometry import fit, mask_to_photo
from tests.server.helpers import ROOT, encoded, free_port, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
expect.set_options(timeout=60_000)  # generous, for busy machines

KEY = "a-key-of-enough-letters"
BEFORE, AFTER = "a red ball", "a green cup on a table"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


# -- servers and browser ---------------------------------------------------------------------------


@dataclass
class Server:
    """A server process with fake networks."""

    process: subprocess.Popen[bytes]
    url: str

    def wait(self) -> str:
        """Wait until the server is ready and return its URL."""
        wait_until(self._ready, "the server is ready", 180)
        return self.url

    def _ready(self) -> bool:
        assert self.process.poll() is None, "the server ended before it was ready"
        try:
            return httpx.get(f"{self.url}/readyz").status_code == 200
        except httpx.TransportError:
            return False


def launch(call_ms: float, *arguments: str, **settings: str) -> Server:
    port = free_port()
    command = [sys.executable, "-m", "demo.fake_server", "--port", str(port)]
    command += ["--call-ms", str(call_ms), *arguments]
    named = {f"DIFFEDIT_SERVE_{name.upper()}": value for name, value in settings.items()}
    environment = {**os.environ, **named}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return Server(process, f"http://127.0.0.1:{port}")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Server]]:
    """Three servers: a fast one, a slow one without a queue, and one that needs a key."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"alice {KEY}\n")
    started = {
        "fast": launch(2, "--fault", "nan"),
        "slow": launch(40, max_queue_seconds="0.05"),
        "secured": launch(1, api_keys=str(keys)),
    }
    yield started
    for server in started.values():
        server.process.kill()
        server.process.wait()


@pytest.fixture
def fast(servers: dict[str, Server]) -> str:
    return servers["fast"].wait()


@pytest.fixture
def slow(servers: dict[str, Server]) -> str:
    return servers["slow"].wait()


@pytest.fixture
def secured(servers: dict[str, Server]) -> str:
    return servers["secured"].wait()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if path is None:
        pytest.skip(f"needs a browser: none of {', '.join(CHROMIUM)} is installed")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])


@dataclass
class Visit:
    """A page and its console errors."""

    page: Page
    errors: list[str] = field(default_factory=list)

    def on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    def expect_failed_request(self, status: int) -> None:
        """Remove the browser's messages about requests with this status. There must be one."""
        prefix = f"Failed to load resource: the server responded with a status of {status} "
        assert [e for e in self.errors if e.startswith(prefix)], f"no request failed: {status}"
        self.errors[:] = [e for e in self.errors if not e.startswith(prefix)]


OpenPage = Callable[..., Visit]
REPORT_CSP_VIOLATIONS = (
    "addEventListener('securitypolicyviolation', (event) => "
    "console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`))"
)


@pytest.fixture
def visit(browser: Browser) -> Iterator[OpenPage]:
    """`visit(url, width=...)` opens a page in a new browser context."""
    visits: list[tuple[Visit, BrowserContext]] = []

    def open_page(url: str, width: int = 1280, dark: bool = False) -> Visit:
        size = {"width": width, "height": 844}
        scheme = "dark" if dark else "light"
        context = browser.new_context(viewport=size, color_scheme=scheme)  # type: ignore[arg-type]
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.add_init_script(REPORT_CSP_VIOLATIONS)
        visited = Visit(page)
        page.on("console", visited.on_console)
        page.on("pageerror", lambda error: visited.errors.append(str(error)))
        visits.append((visited, context))
        page.goto(url)
        page.locator("#drop").wait_for()
        return visited

    yield open_page
    errors = [visited.errors for visited, _ in visits]
    for _, context in visits:
        context.close()
    assert errors == [[] for _ in visits]


# -- user actions ----------------------------------------------------------------------------------


def scene_image(seed: int = 970005) -> Image.Image:
    """A scene of 128 px. A seed that no other test uses gives an image that is not cached."""
    return Image.fromarray(scene(seed, 128).image)


def payload(image: Image.Image, name: str) -> FilePayload:
    return {"name": name, "mimeType": "image/png", "buffer": encoded(image)}


def upload(page: Page, image: Image.Image, name: str = "scene.png") -> None:
    page.set_input_files("#file", payload(image, name))
    expect(page.locator("#frame")).to_be_visible()


def fill_prompts(page: Page, before: str = BEFORE, after: str = AFTER) -> None:
    page.get_by_label("What is there", exact=True).fill(before)
    page.get_by_label("What should be there").fill(after)


def find_mask(page: Page) -> dict[str, object]:
    """Find the mask and return the server's response."""
    with page.expect_response("**/v1/masks") as response:
        page.get_by_role("button", name="Find the mask").click()
    expect(page.locator("#maskPanel")).to_be_visible()
    expect(page.locator("#work")).to_be_hidden()
    body: dict[str, object] = response.value.json()
    return body


def click(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def wait_for_result(page: Page) -> None:
    expect(page.locator("#result")).to_be_visible()


def download(page: Page, link: str) -> NDArray[np.uint8]:
    with page.expect_download() as loading:
        page.get_by_role("link", name=link, exact=True).click()
    return np.asarray(Image.open(loading.value.path()))


def edit_and_download_mask(page: Page) -> NDArray[np.bool_]:
    """Edit with the current mask and return the mask that the server used."""
    click(page, "Edit")
    wait_for_result(page)
    return download(page, "Save mask") > 0


def statistic(page: Page, name: str) -> str:
    row = page.locator("#stats > div").filter(has=page.get_by_text(name, exact=True))
    return row.locator("dd").inner_text()


def mask_share(page: Page) -> float:
    """The displayed size of the mask in percent, after the next frame."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    match = re.match(r"([\d.]+) % of", page.locator("#maskShare").inner_text())
    assert match is not None
    return float(match[1])


def decoded(response: dict[str, object], name: str) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(str(response[name])))))


def set_range(page: Page, selector: str, value: float) -> None:
    page.locator(selector).fill(str(value))


# -- images and masks ------------------------------------------------------------------------------


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
        expect(page.locator("#photoName")).to_have_text(f"{event}.png")


def test_found_mask_is_sent_with_the_edit(visit: OpenPage, fast: str) -> None:
    page = visit(fast).page
    upload(page, scene_image())
    fill_prompts(page)
    response = find_mask(page)
    expect(page.locator("#heatmap")).to_be_visible()
    expect(page.locator("#announcement")).to_have_text(re.compile(r"Mask found: [\d.]+ % of"))
    assert abs(mask_share(page) - 100 * float(str(response["mask_share"]))) < 0.2
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
    response = find_mask(page)
    levels = decoded(response, "heatmap")
    width, height = np.asarray(response["canvas"]).tolist()
    placement, factor = fit(photo, (height, width))[1], width // levels.shape[1]
    for threshold in (0.2, 0.65):
        set_range(page, "#threshold", threshold)
        expected = np.asarray(mask_to_photo(levels / 255 > threshold, placement, factor)) > 0
        assert 0 < expected.sum() != (decoded(response, "mask") > 0).sum()
        assert np.array_equal(edit_and_download_mask(page), expected)
        click(page, "Try another text on this image")


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
    expect(page.locator("#notice")).to_contain_text("The mask is empty")
    click(page, "Reset to the found mask")
    assert mask_share(page) == found > 0


# -- editing ---------------------------------------------------------------------------------------


def test_edit_shows_progress_and_stages(visit: OpenPage, slow: str) -> None:
    page = visit(slow).page
    upload(page, scene_image(970006))
    fill_prompts(page)
    click(page, "Edit directly")
    words, bar = page.locator("#workText"), page.locator("#track")
    expect(words).to_have_text("Encoding the image")
    expect(words).to_have_text("Editing the image")
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
    find_mask(page)
    mask = edit_and_download_mask(page)
    image = download(page, "Save image")
    assert image.shape == (112, 144, 3)
    changed = (image != np.asarray(photo)).any(-1)
    assert changed.any()
    assert not changed[~mask].any()
    assert statistic(page, "Pixels changed outside the mask") == "0"
    assert statistic(page, "Denoiser rows") == "120"
    assert re.match(r"[\d.]+ s", statistic(page, "Time"))
    assert statistic(page, "Edited area") == f"{100 * mask.mean():.1f} %"
    assert page.locator("#saveImage").get_attribute("download") == "table.edited.png"


def test_comparing_before_and_after(visit: OpenPage, fast: str) -> None:
    page = visit(fast).page
    upload(page, scene_image())
    fill_prompts(page)
    click(page, "Edit directly")
    wait_for_result(page)
    slider = page.get_by_role("slider", name="Share of the original image")
    expect(slider).to_have_attribute("aria-valuenow", "50")
    slider.focus()
    keys = {"ArrowLeft": "48", "Shift+ArrowRight": "58", "Home": "0", "End": "100"}
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
    with page.expect_response("**/v1/jobs") as accepted:
        click(page, "Edit directly")
    expect(page.locator("#workText")).to_have_text("Encoding the image")
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
    find_mask(page)
    click(page, "Edit")
    wait_for_result(page)
    expect(page.locator("#speedup")).to_be_hidden()
    click(page, "Try another text on this image")
    prompt = page.get_by_label("What should be there")
    expect(prompt).to_be_focused()
    prompt.fill("a blue cup")
    click(page, "Edit")
    wait_for_result(page)
    expect(page.locator("#speedup")).to_contain_text("80 rows instead of 120")
    history = page.locator("#history button")
    expect(history).to_have_count(2)
    expect(history.nth(1)).to_have_attribute("aria-pressed", "true")
    history.nth(0).click()
    expect(page.locator("#promptAfter")).to_have_text(AFTER)


def test_continue_with_a_result(visit: OpenPage, fast: str) -> None:
    page = visit(fast).page
    upload(page, scene_image())
    fill_prompts(page)
    click(page, "Edit directly")
    wait_for_result(page)
    click(page, "Continue with the result")
    expect(page.locator("#photoName")).to_have_text("scene.edited.png")
    expect(page.get_by_label("What is there", exact=True)).to_have_value(AFTER)
    expect(page.locator("#history button")).to_have_count(0)


def test_code_snippets(visit: OpenPage, fast: str) -> None:
    page = visit(fast).page
    upload(page, scene_image(), "it's.png")
    fill_prompts(page, after='a "green" cup; it\'s $new')
    page.get_by_text("Options", exact=True).click()
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


# -- errors ----------------------------------------------------------------------------------------


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
    page.get_by_text("Options", exact=True).click()
    strength = page.get_by_label("Strength", exact=True)
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
    click(first.page, "Edit directly")
    expect(first.page.locator("#workText")).to_have_text("Encoding the image")
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
    find_mask(page)
    set_range(page, "#threshold", 0.2)
    before = mask_share(page)
    click(page, "Edit")
    expect(page.locator("#workText")).to_have_text("Encoding the image")
    page.reload()
    expect(page.locator("#work")).to_be_visible()
    expect(page.locator("#photoName")).to_have_text("scene.png")
    wait_for_result(page)
    expect(page.locator("#promptAfter")).to_have_text(AFTER)
    page.reload()
    wait_for_result(page)
    click(page, "Try another text on this image")
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


# -- accessibility ---------------------------------------------------------------------------------


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
    assert 0 < mask_share(page) < painted
    reach("#undo")
    page.keyboard.press("Space")
    reach("#submitButton")
    page.keyboard.press("Enter")
    wait_for_result(page)
    expect(page.locator("#divider")).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#divider")).to_have_attribute("aria-valuenow", "52")


def test_no_horizontal_overflow_at_phone_width(visit: OpenPage, fast: str) -> None:
    page = visit(fast, width=390).page

    def fits() -> bool:
        inside = "document.documentElement.scrollWidth <= innerWidth"
        return bool(page.evaluate(inside)) and page.evaluate("innerWidth") == 390

    assert fits()
    upload(page, still_life(300, 60), "a-rather-long-name-without-any-spaces-" * 3 + ".png")
    fill_prompts(page, after="unbrokenwords" * 20)
    page.get_by_text("Options", exact=True).click()
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


def test_user_input_is_never_html(visit: OpenPage, fast: str) -> None:
    page = visit(fast).page
    upload(page, scene_image(), "<img src=x>.png")
    fill_prompts(page, before="<b>cup</b>", after="<img src=/nowhere onerror=alert(1)>")
    click(page, "Edit directly")
    wait_for_result(page)
    expect(page.locator("#promptBefore")).to_have_text("<b>cup</b>")
    expect(page.locator("#promptAfter")).to_have_text("<img src=/nowhere onerror=alert(1)>")
    assert page.locator("#promptAfter > *, #promptBefore > *, #photoName > *").count() == 0
