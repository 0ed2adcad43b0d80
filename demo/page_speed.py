"""Measure the server's page in a browser on a large picture: sliders, painting, zooming.

    python -m demo.page_speed [--megapixels 15] [--width 1440] [--chromium PATH]

Starts `demo.fake_server`, whose networks take no time, so that the page and the server's own work
remain. Frames are those of the browser's `requestAnimationFrame`; "work" is the time of the page's
own drawing in a frame. Requires playwright and a Chromium. The last line is JSON.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from demo.picture import still_life
from demo.screenshots import TIMEOUT_MS, browser_path, served

RECORDER = """() => {
  const schedule = window.requestAnimationFrame.bind(window);
  const recorded = window.recorded = { frames: [], work: [] };
  window.requestAnimationFrame = (draw) => schedule((time) => {
    const began = performance.now();
    draw(time);
    recorded.work.push(performance.now() - began);
  });
  let last = null;
  schedule(function next(time) {
    if (last !== null) recorded.frames.push(time - last);
    last = time;
    schedule(next);
  });
}"""
TAKE = "() => { const { frames, work } = recorded; return [frames.splice(0), work.splice(0)]; }"


@dataclass(frozen=True)
class Frames:
    """Frames of one action; times in milliseconds.

    Attributes:
        frames: number of frames that the browser showed.
        median, p95: time from one frame to the next.
        work_p95: 95th percentile of the page's own drawing, of the frames that drew anything.
    """

    frames: int
    median: float
    p95: float
    work_p95: float

    def __str__(self) -> str:
        return (
            f"median {self.median:g} ms, p95 {self.p95:g} ms from frame to frame, "
            f"own work p95 {self.work_p95:g} ms"
        )


def large_picture(megapixels: float) -> bytes:
    """A JPEG file with the aspect ratio 3 : 2."""
    height = round((megapixels * 1e6 / 1.5) ** 0.5)
    buffer = io.BytesIO()
    picture = still_life(1200, 800).resize((round(1.5 * height), height), Image.Resampling.BICUBIC)
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def open_picture(page: Page, url: str, data: bytes) -> None:
    """Open the page with a picture and two texts."""
    page.set_default_timeout(TIMEOUT_MS)
    page.goto(url)
    page.locator("#drop").wait_for()
    page.evaluate(RECORDER)
    file = {"name": "large.jpg", "mimeType": "image/jpeg", "buffer": data}
    page.set_input_files("#file", file)  # type: ignore[arg-type]
    page.get_by_label("What is there", exact=True).fill("a red ball")
    page.get_by_label("What should be there").fill("a green cup")


def find_mask(page: Page) -> float:
    """Seconds until the mask is shown."""
    began = time.perf_counter()
    page.get_by_role("button", name="Find the mask").click()
    expect(page.locator("#maskPanel")).to_be_visible(timeout=TIMEOUT_MS)
    expect(page.locator("#work")).to_be_hidden(timeout=TIMEOUT_MS)
    return time.perf_counter() - began


def move_slider(page: Page, threshold: float) -> float:
    """Seconds until the mask of another threshold is shown."""
    began = time.perf_counter()
    with page.expect_response("**/v1/masks/*"):
        page.locator("#threshold").fill(str(threshold))
    page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    return time.perf_counter() - began


def paint(page: Page, brush: int, softness: float) -> Frames:
    """Draw a long stroke. `brush`: per mille of the longer side."""
    page.locator("#softness").fill(str(softness))
    page.locator("#brushSize").fill(str(brush))
    box = page.locator("#frame").bounding_box()
    assert box is not None
    left, top, width, height = box["x"], box["y"], box["width"], box["height"]
    page.evaluate(TAKE)
    page.mouse.move(left + 0.1 * width, top + 0.2 * height)
    page.mouse.down()
    for row in range(4):
        side = 0.1 if row % 2 else 0.9
        page.mouse.move(left + side * width, top + (0.3 + 0.15 * row) * height, steps=50)
    page.mouse.up()
    return frames_of(page)


def zoom(page: Page) -> Frames:
    """Zoom in with the wheel."""
    page.evaluate(TAKE)
    for _ in range(40):
        page.mouse.wheel(0, -40)
        page.wait_for_timeout(8)
    return frames_of(page)


def frames_of(page: Page) -> Frames:
    """The frames since the last call."""
    frames, work = page.evaluate(TAKE)
    drawing = [ms for ms in work if ms > 0.3] or [0.0]
    return Frames(
        len(frames),
        round(statistics.median(frames), 1),
        round(_p95(frames), 1),
        round(_p95(drawing), 1),
    )


def _p95(values: list[float]) -> float:
    return sorted(values)[int(0.95 * (len(values) - 1))]


def measure(page: Page, url: str, data: bytes) -> dict[str, float | Frames]:
    """All figures; seconds, and frames."""
    open_picture(page, url, data)
    figures: dict[str, float | Frames] = {"find the mask, s": round(find_mask(page), 2)}
    page.locator("#showHeatmap").uncheck()
    sliders = [move_slider(page, threshold) for threshold in (0.3, 0.6, 0.4, 0.5, 0.45)]
    figures["move a slider, s"] = round(statistics.median(sliders), 3)
    figures["paint"] = paint(page, 60, 0)
    figures["paint softly"] = paint(page, 60, 0.8)
    figures["paint with a large brush"] = paint(page, 300, 0)
    figures["zoom"] = zoom(page)
    figures["paint under zoom"] = paint(page, 20, 0)
    return figures


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m demo.page_speed", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--megapixels", type=float, default=15, help="of the picture (1 to 16)")
    parser.add_argument("--width", type=int, default=1440, help="of the window, in pixels")
    parser.add_argument("--chromium", help="path of the browser (default: the first found)")
    args = parser.parse_args(arguments)
    path = browser_path(args.chromium)
    if path is None:
        return 1
    command = ("-m", "demo.fake_server", "--call-ms", "0")
    with served(*command) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": args.width, "height": 900})
        figures = measure(page, url, large_picture(args.megapixels))
    for name, figure in figures.items():
        print(f"{name:26} {figure}")
    values = {k: asdict(v) if isinstance(v, Frames) else v for k, v in figures.items()}
    print(json.dumps({"megapixels": args.megapixels, "width": args.width, **values}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
