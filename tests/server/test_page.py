"""The page in a real browser, against the server with fake networks: what a person does with it.

Every test also fails on any console error, uncaught exception or violation of the page's
Content-Security-Policy; a test names the HTTP errors that it provokes.
"""

from __future__ import annotations

import base64
import io
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

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
from tests.server.kit import ROOT, encoded, free_port

KEY = "a-key-of-enough-letters"
BEFORE, AFTER = "a red ball", "a green cup on a table"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


# -- servers and browsers --------------------------------------------------------------------------


@dataclass
class Server:
    """A process that serves the page over fake networks."""

    process: subprocess.Popen[bytes]
    url: str

    def wait(self) -> str:
        """Its address, once it is ready."""
        for _ in range(600):
            assert self.process.poll() is None, "the server ended before it was ready"
            try:
                with urllib.request.urlopen(f"{self.url}/readyz", timeout=1) as answer:
                    if answer.status == 200:
                        return self.url
            except OSError:
                time.sleep(0.05)
        pytest.fail("the server did not become ready within 30 s")


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
    """Three servers, started together: a quick one, a slow one that queues nothing, and one that
    asks for a key."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"alice {KEY}\n")
    started = {
        "quick": launch(2, "--fault", "nan"),
        "slow": launch(20, max_queue_seconds="0.05"),
        "locked": launch(1, api_keys=str(keys)),
    }
    yield started
    for server in started.values():
        server.process.kill()
        server.process.wait()


@pytest.fixture
def quick(servers: dict[str, Server]) -> str:
    return servers["quick"].wait()


@pytest.fixture
def slow(servers: dict[str, Server]) -> str:
    return servers["slow"].wait()


@pytest.fixture
def locked(servers: dict[str, Server]) -> str:
    return servers["locked"].wait()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if found is None:
        pytest.skip(f"needs a browser: none of {', '.join(CHROMIUM)} is installed")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])


@dataclass
class Visit:
    """One page and everything that went wrong on it."""

    page: Page
    complaints: list[str] = field(default_factory=list)

    def heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def expects(self, status: int) -> None:
        """The browser itself logs failed requests: drop those with a status that was provoked."""
        known = f"Failed to load resource: the server responded with a status of {status} "
        assert [c for c in self.complaints if c.startswith(known)], f"no request failed: {status}"
        self.complaints[:] = [c for c in self.complaints if not c.startswith(known)]


NewVisit = Callable[..., Visit]
TELL_VIOLATIONS = (
    "addEventListener('securitypolicyviolation', (event) => "
    "console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`))"
)


@pytest.fixture
def visit(browser: Browser) -> Iterator[NewVisit]:
    """`visit(url, width=...)` opens a page in a context of its own."""
    visits: list[tuple[Visit, BrowserContext]] = []

    def open_page(url: str, width: int = 1280, dark: bool = False) -> Visit:
        size = {"width": width, "height": 844}
        scheme = "dark" if dark else "light"
        context = browser.new_context(viewport=size, color_scheme=scheme)  # type: ignore[arg-type]
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.add_init_script(TELL_VIOLATIONS)
        visited = Visit(page)
        page.on("console", visited.heard)
        page.on("pageerror", lambda error: visited.complaints.append(str(error)))
        visits.append((visited, context))
        page.goto(url)
        page.locator("#drop").wait_for()
        return visited

    yield open_page
    complaints = [visited.complaints for visited, _ in visits]
    for _, context in visits:
        context.close()
    assert complaints == [[] for _ in visits]


# -- what a person does ----------------------------------------------------------------------------


def square(seed: int = 970005) -> Image.Image:
    """A still life; by a seed of its own, one that no other test has sent."""
    return Image.fromarray(scene(seed, 128).image)


def payload(image: Image.Image, name: str) -> FilePayload:
    return {"name": name, "mimeType": "image/png", "buffer": encoded(image)}


def upload(page: Page, image: Image.Image, name: str = "scene.png") -> None:
    page.set_input_files("#file", payload(image, name))
    expect(page.locator("#frame")).to_be_visible()


def write(page: Page, before: str = BEFORE, after: str = AFTER) -> None:
    page.get_by_label("What is there", exact=True).fill(before)
    page.get_by_label("What should be there").fill(after)


def find(page: Page) -> dict[str, object]:
    with page.expect_response("**/v1/masks") as answer:
        page.get_by_role("button", name="Find the place").click()
    expect(page.locator("#place")).to_be_visible()
    expect(page.locator("#work")).to_be_hidden()
    told: dict[str, object] = answer.value.json()
    return told


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def edited(page: Page) -> None:
    expect(page.locator("#result")).to_be_visible(timeout=20_000)


def download(page: Page, link: str) -> NDArray[np.uint8]:
    with page.expect_download() as loading:
        page.get_by_role("link", name=link, exact=True).click()
    return np.asarray(Image.open(loading.value.path()))


def mask_of_edit(page: Page) -> NDArray[np.bool_]:
    """Edit under the mask that is drawn, and see what the server took it for."""
    press(page, "Edit")
    edited(page)
    return download(page, "Mask") > 0


def figure(page: Page, name: str) -> str:
    row = page.locator("#figures > div").filter(has=page.get_by_text(name, exact=True))
    return row.locator("dd").inner_text()


def share(page: Page) -> float:
    """The percentage that the page shows beside the mask, once it was drawn."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    found = re.match(r"([\d.]+) % of", page.locator("#share").inner_text())
    assert found is not None
    return float(found[1])


def picture(answer: dict[str, object], name: str) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(str(answer[name])))))


def set_range(page: Page, selector: str, value: float) -> None:
    page.locator(selector).fill(str(value))


# -- from the picture to the place -----------------------------------------------------------------


def test_what_is_no_picture_is_refused_in_words(
    visit: NewVisit, quick: str, tmp_path: Path
) -> None:
    page = visit(quick).page
    expect(page.locator("#model")).to_contain_text("fake")  # its limits are known
    Image.new("L", (9000, 1)).save(tmp_path / "long.png")
    for name, size, words in [
        ("notes.txt", 10, "notes.txt is neither PNG, JPEG nor WebP"),
        ("big.png", 20_100_000, "big.png has 20.1 MB, but at most 20 MB"),
        ("torn.png", 100, "torn.png is damaged"),
        ("long.png", None, "long.png has 9000 pixels a side, but at most 8192"),
    ]:
        if size is not None:
            (tmp_path / name).write_bytes(bytes(size))
        page.set_input_files("#file", tmp_path / name)
        expect(page.locator("#imageError")).to_contain_text(words)
        expect(page.locator("#workshop")).to_be_hidden()
    upload(page, square())
    expect(page.locator("#welcome")).to_be_hidden()
    expect(page.locator("#pictureSize")).to_have_text(re.compile("^128 . 128$"))


def test_a_picture_may_be_dropped_or_pasted(visit: NewVisit, quick: str) -> None:
    page = visit(quick).page
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
            [event, list(encoded(square()))],
        )
        expect(page.locator("#pictureName")).to_have_text(f"{event}.png")


def test_the_found_mask_is_the_one_that_is_sent(visit: NewVisit, quick: str) -> None:
    page = visit(quick).page
    upload(page, square())
    write(page)
    answer = find(page)
    expect(page.locator("#heat")).to_be_visible()
    expect(page.locator("#spoken")).to_have_text(re.compile(r"Found: [\d.]+ % of"))
    assert abs(share(page) - 100 * float(str(answer["mask_share"]))) < 0.2
    found = picture(answer, "mask") > 0
    assert 0 < found.mean() < 1
    assert np.array_equal(mask_of_edit(page), found)


@pytest.mark.parametrize("size", [(128, 128), (150, 100), (90, 200)])
def test_the_threshold_cuts_the_heatmap_as_the_server_would(
    visit: NewVisit, quick: str, size: tuple[int, int]
) -> None:
    page = visit(quick).page
    photo = still_life(*size)
    upload(page, photo)
    write(page)
    answer = find(page)
    levels = picture(answer, "heatmap")
    width, height = np.asarray(answer["canvas"]).tolist()
    placement, factor = fit(photo, (height, width))[1], width // levels.shape[1]
    for threshold in (0.2, 0.65):
        set_range(page, "#threshold", threshold)
        expected = np.asarray(mask_to_photo(levels / 255 > threshold, placement, factor)) > 0
        assert 0 < expected.sum() != (picture(answer, "mask") > 0).sum()
        assert np.array_equal(mask_of_edit(page), expected)
        press(page, "Try another text on this picture")


def test_painting_erasing_undoing(visit: NewVisit, quick: str) -> None:
    page = visit(quick).page
    upload(page, square())
    write(page)
    press(page, "Paint the place yourself")
    set_range(page, "#brushSize", 100)
    box = page.locator("#marks").bounding_box()
    assert box is not None

    def stroke(y: float) -> None:
        page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + y * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + y * box["height"], steps=5)
        page.mouse.up()

    stroke(0.25)
    one = share(page)
    assert abs(one - 100 * (0.6 * 0.1 + np.pi * 0.05**2)) < 1
    stroke(0.75)
    two = share(page)
    assert abs(two - 2 * one) < 0.3
    page.get_by_text("Erase", exact=True).click()
    stroke(0.75)
    assert abs(share(page) - one) < 0.3
    press(page, "Undo")
    assert share(page) == two
    press(page, "Redo")
    assert abs(share(page) - one) < 0.3
    press(page, "Invert")
    assert abs(share(page) - (100 - one)) < 0.3
    page.keyboard.press("Control+z")
    assert abs(share(page) - one) < 0.3
    mask = mask_of_edit(page)
    assert mask[32, 30:98].all()
    assert not mask[40:].any()


def test_back_to_the_found_mask_after_clearing(visit: NewVisit, quick: str) -> None:
    page = visit(quick).page
    upload(page, square())
    write(page)
    find(page)
    found = share(page)
    press(page, "Clear")
    expect(page.locator("#share")).to_have_text("0.0 % of the picture")
    press(page, "Edit")
    expect(page.locator("#notice")).to_contain_text("No place is marked")
    press(page, "Back to the found mask")
    assert share(page) == found > 0


# -- editing ---------------------------------------------------------------------------------------


def test_an_edit_shows_its_progress_and_its_stages(visit: NewVisit, slow: str) -> None:
    page = visit(slow).page
    upload(page, square(970006))
    write(page)
    press(page, "Edit at once")
    words, bar = page.locator("#workWords"), page.locator("#track")
    expect(words).to_have_text("Encoding the picture")
    expect(words).to_have_text("Repainting")
    expect(bar).to_have_attribute("aria-valuenow", re.compile(r"^[3-9]\d$"))
    expect(page.locator("#after")).to_have_attribute("src", re.compile("^data:image/png"))
    edited(page)
    expect(page.locator("#after")).to_have_attribute("src", re.compile("^blob:"))
    expect(page.locator("#spoken")).to_have_text(re.compile(r"EditOutputs in [\d.]+ s\."))


def test_a_preview_leaves_the_rest_as_it_is(visit: NewVisit, slow: str) -> None:
    """Of a preview nothing is shown outside the mask, as nothing will change there."""
    page = visit(slow).page
    upload(page, square(970012))
    write(page)
    press(page, "Paint the place yourself")
    page.locator("#marks").press(" ")
    press(page, "Edit")
    after = page.locator("#after")
    expect(after).to_have_attribute("src", re.compile("^data:image/png"))
    assert page.evaluate("getComputedStyle(after).maskImage").startswith('url("blob:')
    edited(page)
    assert page.evaluate("getComputedStyle(after).maskImage") == "none"


def test_the_result_is_told_and_equals_the_picture_outside_the_mask(
    visit: NewVisit, quick: str
) -> None:
    page = visit(quick).page
    photo = still_life(144, 112)
    upload(page, photo, "table.png")
    write(page)
    find(page)
    mask = mask_of_edit(page)
    image = download(page, "Download the picture")
    assert image.shape == (112, 144, 3)
    changed = (image != np.asarray(photo)).any(-1)
    assert changed.any()
    assert not changed[~mask].any()
    assert figure(page, "Pixels changed outside the mask") == "0"
    assert figure(page, "Rows of the UNet") == "120"
    assert re.match(r"[\d.]+ s", figure(page, "Time"))
    assert figure(page, "Repainted") == f"{100 * mask.mean():.1f} %"
    assert page.locator("#saveImage").get_attribute("download") == "table.edited.png"


def test_comparing_before_and_after(visit: NewVisit, quick: str) -> None:
    page = visit(quick).page
    upload(page, square())
    write(page)
    press(page, "Edit at once")
    edited(page)
    slider = page.get_by_role("slider", name="Share of the picture that shows how it was")
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


def test_cancelling_stops_the_job(visit: NewVisit, slow: str) -> None:
    page = visit(slow).page
    upload(page, square(970007))
    write(page)
    with page.expect_response("**/v1/jobs") as accepted:
        press(page, "Edit at once")
    expect(page.locator("#workWords")).to_have_text("Encoding the picture")
    press(page, "Cancel")
    expect(page.locator("#work")).to_be_hidden(timeout=2000)
    expect(page.locator("#result")).to_be_hidden()
    expect(page.locator("#notice")).to_be_hidden()
    job = accepted.value.json()["id"]
    assert page.request.get(f"{slow}/v1/jobs/{job}").json()["state"] == "cancelled"


def test_the_second_text_on_a_picture_is_faster(visit: NewVisit, quick: str) -> None:
    page = visit(quick).page
    upload(page, still_life(97, 128))  # a picture that no other test has sent
    write(page)
    find(page)
    press(page, "Edit")
    edited(page)
    expect(page.locator("#faster")).to_be_hidden()
    press(page, "Try another text on this picture")
    prompt = page.get_by_label("What should be there")
    expect(prompt).to_be_focused()
    prompt.fill("a blue cup")
    press(page, "Edit")
    edited(page)
    expect(page.locator("#faster")).to_contain_text("80 rows instead of 120")
    history = page.locator("#history button")
    expect(history).to_have_count(2)
    expect(history.nth(1)).to_have_attribute("aria-pressed", "true")
    history.nth(0).click()
    expect(page.locator("#saidAfter")).to_have_text(AFTER)


def test_going_on_from_a_result(visit: NewVisit, quick: str) -> None:
    page = visit(quick).page
    upload(page, square())
    write(page)
    press(page, "Edit at once")
    edited(page)
    press(page, "Continue from the result")
    expect(page.locator("#pictureName")).to_have_text("scene.edited.png")
    expect(page.get_by_label("What is there", exact=True)).to_have_value(AFTER)
    expect(page.locator("#history button")).to_have_count(0)


def test_the_same_edit_as_text(visit: NewVisit, quick: str) -> None:
    page = visit(quick).page
    upload(page, square(), "it's.png")
    write(page, after='a "green" cup; it\'s $new')
    page.get_by_text("Options", exact=True).click()
    page.get_by_label("Seed", exact=True).fill("7")
    page.get_by_text("Copy as a command or program").click()
    code = page.locator("#code")
    said = {}
    for language in ("Shell", "curl", "Python", "OpenAI"):
        page.locator("#languages").get_by_text(language, exact=True).click()
        said[language] = code.inner_text()
    quoted = "'a \"green\" cup; it'\\''s $new'"
    assert f"diffedit-trt edit 'it'\\''s.png' \\\n  --prompt {quoted}" in said["Shell"]
    assert "--seed 7" in said["Shell"]
    assert f"--form-string 'prompt={quoted[1:]}" in said["curl"]
    for language in ("Python", "OpenAI"):
        compile(said[language], language, "exec")
        assert r'"a \"green\" cup; it' in said[language]
    assert "seed=7" in said["Python"]
    assert '"seed": 7' in said["OpenAI"]


# -- when something is wrong -----------------------------------------------------------------------


def test_an_error_of_the_server_is_told(visit: NewVisit, quick: str) -> None:
    visited = visit(quick)
    page = visited.page
    upload(page, square())
    write(page, after="poison")
    press(page, "Find the place")
    expect(page.locator("#notice")).to_contain_text("gave NaN or infinite values")
    expect(page.get_by_role("button", name="Try again")).to_be_visible()
    visited.expects(422)
    write(page)
    find(page)
    expect(page.locator("#notice")).to_be_hidden()


def test_errors_stand_beside_their_fields(visit: NewVisit, quick: str) -> None:
    visited = visit(quick)
    page = visited.page
    upload(page, square())
    press(page, "Find the place")
    prompt = page.get_by_label("What should be there")
    expect(page.locator("#promptError")).to_have_text("Say what should be there.")
    expect(prompt).to_have_attribute("aria-invalid", "true")
    expect(prompt).to_be_focused()
    write(page, after="cup " * 2000)
    press(page, "Find the place")
    expect(page.locator("#promptError")).to_contain_text("4096 bytes")
    visited.expects(400)
    write(page)
    page.get_by_text("Options", exact=True).click()
    strength = page.get_by_label("Strength", exact=True)
    expect(strength).to_have_attribute("placeholder", "0.8")
    strength.fill("1.5")
    press(page, "Edit at once")
    expect(page.locator("#error-strength")).to_contain_text("above 0 and at most 1")
    expect(page.locator("#notice")).to_be_hidden()


def test_a_busy_server_is_waited_for(visit: NewVisit, slow: str) -> None:
    first, visited = visit(slow), visit(slow)
    for page, seed in ((first.page, 970010), (visited.page, 970011)):
        upload(page, square(seed))
        write(page)
    press(first.page, "Edit at once")
    expect(first.page.locator("#workWords")).to_have_text("Encoding the picture")
    page = visited.page
    press(page, "Edit at once")
    expect(page.locator("#workWords")).to_have_text(re.compile(r"busy. Trying again in \d+ s"))
    press(page, "Stop")
    expect(page.locator("#work")).to_be_hidden()
    press(page, "Edit at once")
    expect(page.locator("#workWords")).to_have_text(re.compile(r"busy. Trying again in \d+ s"))
    edited(first.page)
    edited(page)
    visited.expects(429)


def test_a_job_that_vanished_is_told(visit: NewVisit, quick: str) -> None:
    visited = visit(quick)
    page = visited.page
    upload(page, square())
    page.evaluate(
        "sessionStorage.setItem('job', JSON.stringify("
        "{ id: 'gone', recipe: { parameters: { prompt: 'a cup' }, masked: false } }))"
    )
    page.reload()
    expect(page.locator("#notice")).to_contain_text("no longer knows this edit")
    visited.expects(404)


def test_a_reload_loses_nothing(visit: NewVisit, slow: str) -> None:
    page = visit(slow).page
    upload(page, square(970008))
    write(page)
    find(page)
    set_range(page, "#threshold", 0.2)
    before = share(page)
    press(page, "Edit")
    expect(page.locator("#workWords")).to_have_text("Encoding the picture")
    page.reload()
    expect(page.locator("#work")).to_be_visible()
    expect(page.locator("#pictureName")).to_have_text("scene.png")
    edited(page)
    expect(page.locator("#saidAfter")).to_have_text(AFTER)
    page.reload()
    edited(page)
    press(page, "Try another text on this picture")
    expect(page.get_by_label("What is there", exact=True)).to_have_value(BEFORE)
    assert share(page) == before


def test_the_key_is_asked_for_once(visit: NewVisit, locked: str) -> None:
    visited = visit(locked)
    page = visited.page
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    page.get_by_label("Key", exact=True).fill("a-wrong-key-of-enough-letters")
    page.keyboard.press("Enter")
    expect(page.locator("#keyError")).to_have_text("That key is not known here.")
    page.get_by_label("Key", exact=True).fill(KEY)
    page.keyboard.press("Enter")
    expect(dialog).to_be_hidden()
    expect(page.locator("#model")).to_contain_text("fake")
    upload(page, square())
    write(page)
    press(page, "Edit at once")
    edited(page)
    expect(dialog).to_be_hidden()
    page.get_by_text("Copy as a command or program").click()
    expect(page.locator("#code")).to_contain_text("Bearer $DIFFEDIT_API_KEY")
    expect(page.locator("#code")).not_to_contain_text(KEY)
    visited.expects(401)


# -- for everybody ---------------------------------------------------------------------------------


def test_everything_with_the_keyboard_alone(visit: NewVisit, quick: str) -> None:
    page = visit(quick).page
    page.on("filechooser", lambda _: None)  # from now on, not only from when one is waited for
    page.keyboard.press("Tab")
    expect(page.locator("#drop")).to_be_focused()
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(payload(square(), "scene.png"))
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
    expect(page.locator("#place")).to_be_visible()
    expect(page.locator("#go")).to_be_focused()
    found = share(page)
    page.locator("#other").focus()
    reach("#marks")
    page.keyboard.press("]")
    for key in ("ArrowLeft", "ArrowUp", " ", "ArrowLeft", " "):
        page.keyboard.press(key)
    painted = share(page)
    assert painted > found
    reach("#threshold")
    page.keyboard.press("End")
    page.keyboard.press("ArrowLeft")
    assert 0 < share(page) < painted
    reach("#undo")
    page.keyboard.press("Space")
    reach("#go")
    page.keyboard.press("Enter")
    edited(page)
    expect(page.locator("#divider")).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#divider")).to_have_attribute("aria-valuenow", "52")


def test_nothing_sticks_out_at_phone_width(visit: NewVisit, quick: str) -> None:
    page = visit(quick, width=390).page

    def fits() -> bool:
        inside = "document.documentElement.scrollWidth <= innerWidth"
        return bool(page.evaluate(inside)) and page.evaluate("innerWidth") == 390

    assert fits()
    upload(page, still_life(300, 60), "a-rather-long-name-without-any-spaces-" * 3 + ".png")
    write(page, after="unbrokenwords" * 20)
    page.get_by_text("Options", exact=True).click()
    page.get_by_text("Copy as a command or program").click()
    assert fits()
    write(page)
    find(page)
    assert fits()
    press(page, "Edit")
    edited(page)
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
    .filter((e) => e.checkVisibility() && e.innerText && !e.disabled && !e.matches(".unseen"))
    .map((e) => {
      const [a, b] = [parts(getComputedStyle(e).color), behind(e)].map(light).sort((x, y) => x - y);
      return [(b + 0.05) / (a + 0.05), e.innerText.slice(0, 40)];
    });
}"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_texts_are_readable(visit: NewVisit, quick: str, dark: bool) -> None:
    page = visit(quick, dark=dark).page
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    red = int(re.findall(r"\d+", paper)[0])
    assert red < 60 if dark else red > 200

    def weakest() -> tuple[float, str]:
        told = page.evaluate(CONTRAST)
        assert len(told) > 5
        ratio, text = min(told)
        return float(ratio), str(text)

    assert weakest() > (4.5, "")
    upload(page, square())
    write(page)
    find(page)
    assert weakest() > (4.5, "")
    press(page, "Edit")
    edited(page)
    assert weakest() > (4.5, "")


def test_nothing_moves_where_that_is_not_wanted(browser: Browser, quick: str) -> None:
    context = browser.new_context(reduced_motion="reduce")
    page = context.new_page()
    page.goto(quick)
    expect(page.locator("#drop")).to_be_visible()
    moving = page.locator("#drop").evaluate("(e) => getComputedStyle(e).transitionProperty")
    assert moving == "none"
    context.close()


def test_a_lost_server_is_told(visit: NewVisit, quick: str) -> None:
    visited = visit(quick)
    page = visited.page
    upload(page, square())
    write(page)
    page.route("**/v1/masks", lambda route: route.abort())
    press(page, "Find the place")
    expect(page.locator("#notice")).to_contain_text("The server cannot be reached")
    page.unroute("**/v1/masks")
    press(page, "Try again")
    expect(page.locator("#place")).to_be_visible()
    failed = "Failed to load resource: net::ERR_FAILED"
    assert failed in visited.complaints
    visited.complaints.remove(failed)


def test_a_broken_connection_is_taken_up_again(visit: NewVisit, slow: str) -> None:
    """The first stream of events is cut after its first bytes; the second names the last event."""
    visited = visit(slow)
    page = visited.page
    asked: list[str | None] = []

    def cut(route: Route) -> None:
        asked.append(route.request.headers.get("last-event-id"))
        if len(asked) > 1:
            route.continue_()
            return
        first = 'id: 1\r\nevent: state\r\ndata: {"state": "queued", "position": 3}\r\n\r\n'
        route.fulfill(body=first, content_type="text/event-stream")

    page.route("**/v1/jobs/*/events", cut)
    upload(page, square(970009))
    write(page)
    press(page, "Edit at once")
    expect(page.locator("#workWords")).to_have_text("Waiting, number 3 in the queue")
    edited(page)
    assert asked == [None, "1"]


def test_what_a_person_writes_stays_text(visit: NewVisit, quick: str) -> None:
    page = visit(quick).page
    upload(page, square(), "<img src=x>.png")
    write(page, before="<b>cup</b>", after="<img src=/nowhere onerror=alert(1)>")
    press(page, "Edit at once")
    edited(page)
    expect(page.locator("#saidBefore")).to_have_text("<b>cup</b>")
    expect(page.locator("#saidAfter")).to_have_text("<img src=/nowhere onerror=alert(1)>")
    assert page.locator("#saidAfter > *, #saidBefore > *, #pictureName > *").count() == 0
