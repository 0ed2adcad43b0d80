"""Actions of a user on the page, and the state of the page after them."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import (
    ConsoleMessage,
    FilePayload,
    Page,
    expect,
)

from demo.scenes import scene
from tests.server.helpers import encoded
from tests.waiting import eventually

expect.set_options(timeout=60_000)  # generous, for busy machines

KEY = "a-key-of-enough-letters"
BEFORE, AFTER = "a red ball", "a green cup on a table"


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


def scene_image(seed: int = 970005) -> Image.Image:
    """A scene of 128 px. A seed that no other test uses gives an image that is not cached."""
    return Image.fromarray(scene(seed, 128).image)


def payload(image: Image.Image, name: str) -> FilePayload:
    return {"name": name, "mimeType": "image/png", "buffer": encoded(image)}


def upload(page: Page, image: Image.Image, name: str = "scene.png") -> None:
    page.set_input_files("#file", payload(image, name))
    expect(page.locator("#frame")).to_be_visible()


def drop(page: Page, image: Image.Image, name: str) -> None:
    page.evaluate(
        """([name, bytes]) => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
          const given = { dataTransfer: data, bubbles: true };
          document.body.dispatchEvent(new DragEvent("drop", given));
        }""",
        [name, list(encoded(image))],
    )


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


def choose_preset(page: Page, name: str) -> None:
    page.locator(".presets").get_by_text(name, exact=True).click()


def set_shape(page: Page, selector: str, value: float | str) -> dict[str, object]:
    """Move a slider of the found mask; returns the server's new mask, which is then shown."""
    with page.expect_response("**/v1/masks/*") as response:
        field = page.locator(selector)
        if isinstance(value, str):
            field.select_option(value)
        else:
            field.fill(str(value))
    body: dict[str, object] = response.value.json()
    if body["cleaning"] == "edges":  # its border follows the picture, inside of the server's mask
        shown = 100 * (decoded(body, "blend_mask") > 127).mean()
        assert eventually(lambda: abs(mask_share(page) - shown) < 0.3), shown
    else:
        rounded = np.floor(1000 * float(str(body["mask_share"])) + 0.5) / 10  # halves up, as JS
        share = f"{rounded:.1f} % of the image"
        expect(page.locator("#maskShare")).to_have_text(share)
    return body


def set_range(page: Page, selector: str, value: float) -> None:
    page.locator(selector).fill(str(value))
