"""Photograph the server's page at work: what docs/server.md shows.

    python -m demo.screenshots [--out docs] [--chromium PATH]

It starts `diffedit-trt serve` on the demo's model, edits one of the demo's scenes in a real browser
and takes a picture of each state. Needs playwright and a Chromium.
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
"""A development scene: never trained on, never measured on."""
BEFORE = "a black cube and a yellow cone on a checked cloth"
AFTER = "a red cube and a yellow cone on a checked cloth"
PATIENCE_MS = 120_000
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def served() -> Iterator[str]:
    """The demo's server on a free port, for the length of a block."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen([sys.executable, "-m", "diffedit.cli", "serve", "--port", str(port)])
    try:
        while True:
            try:
                urllib.request.urlopen(f"{url}/readyz").close()
                break
            except OSError:
                if server.poll() is not None:
                    sys.exit("the server did not start; see above")
                time.sleep(0.2)
        yield url
    finally:
        server.terminate()
        server.wait()


def photograph(page: Page, path: Path) -> None:
    """What is seen now, small enough for a repository."""
    shot = Image.open(io.BytesIO(page.screenshot()))
    shot.convert("RGB").save(path, quality=88, optimize=True)
    print(path)


def find(page: Page, url: str) -> None:
    """From the empty page to a place that was found."""
    page.set_default_timeout(PATIENCE_MS)
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
    page.get_by_role("button", name="Find the place").click()
    expect(page.locator("#work")).to_be_hidden(timeout=PATIENCE_MS)
    expect(page.locator("#place")).to_be_visible()


def show(page: Page, path: Path) -> None:
    """The result, most of it as it is now."""
    expect(page.locator("#result")).to_be_visible(timeout=PATIENCE_MS)
    page.locator("#divider").press("Home")
    for _ in range(6):
        page.locator("#divider").press("ArrowRight")
    page.wait_for_timeout(600)
    photograph(page, path)


def edit(page: Page) -> None:
    """From the place to the result."""
    page.get_by_role("button", name="Edit", exact=True).click()


def desktop(browser: Browser, url: str, out: Path) -> None:
    """On a wide screen: the place, the edit under way, the result."""
    page = browser.new_page(viewport={"width": 1280, "height": 860})
    find(page, url)
    photograph(page, out / "page-place.jpg")
    edit(page)
    page.locator("#cancel").wait_for()
    while int(page.locator("#track").get_attribute("aria-valuenow") or 0) < 60:
        page.wait_for_timeout(20)
    photograph(page, out / "page-editing.jpg")
    show(page, out / "page-result.jpg")
    page.close()


def phone(browser: Browser, url: str, out: Path) -> None:
    """On a phone at night: the result."""
    page = browser.new_page(
        viewport={"width": 390, "height": 844}, color_scheme="dark", device_scale_factor=2
    )
    find(page, url)
    edit(page)
    show(page, out / "page-phone.jpg")
    page.close()


def main(arguments: list[str] | None = None) -> int:
    """Take every picture."""
    parser = argparse.ArgumentParser(prog="python -m demo.screenshots", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--chromium", help="the browser's path (the first found)")
    args = parser.parse_args(arguments)
    path = args.chromium or next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        print(f"no browser: none of {', '.join(BROWSERS)} is installed", file=sys.stderr)
        return 1
    args.out.mkdir(parents=True, exist_ok=True)
    with served() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        desktop(browser, url, args.out)
        phone(browser, url, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
