"""The page on a picture of 15 megapixels: small previews, quick sliders, smooth painting."""

from __future__ import annotations

import numpy as np
import pytest
from playwright.sync_api import expect

from demo.page_speed import Frames, large_picture, measure
from tests.server.page.actions import OpenPage, click, decoded, download, set_shape, wait_for_result

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_picture_of_15_megapixels(visit: OpenPage, fast: str) -> None:
    """The bounds are wide, for busy machines; `python -m demo.page_speed` prints the figures."""
    page = visit(fast, width=1440).page
    figures = measure(page, fast, large_picture(15))
    slider = figures["move a slider, s"]
    assert isinstance(slider, float) and slider < 2
    for name in ("paint", "paint softly", "paint with a large brush", "paint under zoom"):
        frames = figures[name]
        assert isinstance(frames, Frames)
        assert frames.frames > 30
        assert frames.median < 25, f"{name}: {frames}"
    click(page, "Reset to the found mask")
    size = "({ width, height }) => [width, height]"
    script = f"import('/mask.js').then((mask) => ({size})(mask.maskState.found.blend))"
    assert page.evaluate(script) == [1280, 853]


def test_an_edit_has_the_whole_mask(visit: OpenPage, fast: str) -> None:
    """The mask is shown small; the edit uses it at the size of the picture."""
    page = visit(fast, width=1024).page
    page.set_input_files(
        "#file",
        {"name": "large.jpg", "mimeType": "image/jpeg", "buffer": large_picture(6)},
    )
    page.get_by_label("What should be there").fill("a green cup")
    click(page, "Find the mask")
    expect(page.locator("#maskPanel")).to_be_visible()
    shown = set_shape(page, "#threshold", 0.4)
    assert decoded(shown, "mask").shape == (853, 1280)
    answer = page.request.post(f"{fast}/v1/masks/{shown['mask_id']}", form={"threshold": "0.4"})
    whole = decoded(answer.json(), "mask")
    assert whole.shape == (2000, 3000)
    click(page, "Edit")
    wait_for_result(page)
    np.testing.assert_array_equal(download(page, "Save mask"), whole)
