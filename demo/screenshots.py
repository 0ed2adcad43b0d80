"""Take the screenshots of the server's page for docs/server.md.

    python -m demo.screenshots [--out docs] [--chromium PATH]

Starts `diffedit-trt serve` with the demo's model, edits one of the demo's scenes in a browser and
takes a screenshot of each state. Requires playwright and a Chromium.
"""

from __future__ import annotations

import argparse
import io
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from demo.scenes import scene

SEED = 970_004
"""A development scene; neither training nor evaluation uses it."""
BEFORE = "a black cube and a yellow cone on a checked cloth"
AFTER = "a red cube and a yellow cone on a checked cloth"
TIMEOUT_MS = 120_000
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def served(*command: str) -> Iterator[str]:
    """Run the server on a free port in the block; yield its URL.

    `command`: the arguments of Python, by default those of `diffedit-trt serve`.
    """
    command = command or ("-m", "diffedit.cli", "serve")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen([sys.executable, *command, "--port", str(port)])
    try:
        while True:
            try:
                urllib.request.urlopen(f"{url}/readyz").close()
                break
            except OSError:
                if server.poll() is not None:
                    sys.exit("the server did not start; see its messages above")
                time.sleep(0.2)
        yield url
    finally:
        server.terminate()
        server.wait()


def browser_path(given: str | None) -> str | None:
    """The path of a browser; without one, None and a message."""
    path = given or next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        print(
            f"no browser: none of {', '.join(BROWSERS)} is installed; install one, or pass it "
            "with --chromium",
            file=sys.stderr,
        )
    return path


def save_screenshot(page: Page, path: Path) -> None:
    """Write a JPEG file, small enough for a repository."""
    shot = Image.open(io.BytesIO(page.screenshot()))
    shot.convert("RGB").save(path, quality=88, optimize=True)
    print(path)


def find_mask(page: Page, url: str) -> None:
    """Open the page, upload a scene and let the server find the mask."""
    page.set_default_timeout(TIMEOUT_MS)
    page.goto(url)
    page.locator("#drop").wait_for()
    buffer = io.BytesIO()
    Image.fromarray(scene(SEED, 128).image).resize((512, 512), Image.Resampling.BICUBIC).save(
        buffer, "PNG"
    )
    file = {"name": "still-life.png", "mimeType": "image/png", "buffer": buffer.getvalue()}
    page.set_input_files("#file", file)  # type: ignore[arg-type]
    page.get_by_label("What is there", exact=True).fill(BEFORE)
    page.get_by_label("What should be there").fill(AFTER)
    page.get_by_role("button", name="Find the mask").click()
    expect(page.locator("#work")).to_be_hidden(timeout=TIMEOUT_MS)
    expect(page.locator("#maskPanel")).to_be_visible()


def save_result(page: Page, path: Path) -> None:
    """Wait for the result and move the divider so that most of it is visible."""
    expect(page.locator("#result")).to_be_visible(timeout=TIMEOUT_MS)
    page.locator("#divider").press("Home")
    for _ in range(6):
        page.locator("#divider").press("ArrowRight")
    page.wait_for_timeout(600)
    save_screenshot(page, path)


def start_edit(page: Page) -> None:
    """Start the edit of the mask that was found."""
    page.get_by_role("button", name="Edit", exact=True).click()


def desktop(browser: Browser, url: str, out: Path) -> None:
    """Take the mask, the running edit and the result on a wide screen."""
    page = browser.new_page(viewport={"width": 1280, "height": 860})
    find_mask(page, url)
    page.evaluate("scrollTo(0, 0)")  # the button that was clicked is far below
    save_screenshot(page, out / "page-mask.jpg")
    start_edit(page)
    page.locator("#cancel").wait_for()
    while int(page.locator("#track").get_attribute("aria-valuenow") or 0) < 60:
        page.wait_for_timeout(20)
    save_screenshot(page, out / "page-editing.jpg")
    save_result(page, out / "page-result.jpg")
    page.close()


def phone(browser: Browser, url: str, out: Path) -> None:
    """Take the result on a phone in dark mode."""
    page = browser.new_page(
        viewport={"width": 390, "height": 844}, color_scheme="dark", device_scale_factor=2
    )
    find_mask(page, url)
    start_edit(page)
    save_result(page, out / "page-phone.jpg")
    page.close()


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m demo.screenshots", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--chromium", help="path of the browser (default: the first found)")
    args = parser.parse_args(arguments)
    path = browser_path(args.chromium)
    if path is None:
        return 1
    args.out.mkdir(parents=True, exist_ok=True)
    with served() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        desktop(browser, url, args.out)
        phone(browser, url, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
