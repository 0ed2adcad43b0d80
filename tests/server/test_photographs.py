"""The server keeps the color space and bit depth of every kind of photograph."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from demo.picture import still_life
from diffedit.imaging import photograph, png
from tests.imaging.profiles import P3
from tests.server.helpers import FAST, encoded

BOX = Image.new("L", (96, 72))
BOX.paste(255, (20, 20, 60, 50))
OUTSIDE = np.asarray(BOX) == 0


def edit(client: TestClient, image: bytes, **data: Any) -> tuple[dict[str, Any], bytes]:
    files = {"image": ("a.png", image), "mask": ("m.png", encoded(BOX))}
    response = client.post("/v1/images/edits", files=files, data={**FAST, **data})
    assert response.status_code == 200, response.text
    (item,) = response.json()["data"]
    return item, base64.b64decode(item["b64_json"])


def clear_photo() -> Image.Image:
    clear = still_life(96, 72)
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    return clear


@pytest.mark.parametrize(
    "image",
    [
        encoded(still_life(96, 72), icc_profile=P3),
        encoded(clear_photo()),
        encoded(clear_photo(), icc_profile=P3),
    ],
    ids=["Display P3", "transparent", "both"],
)
def test_values_outside_the_mask_are_the_images_own(client: TestClient, image: bytes) -> None:
    data, result = edit(client, image)
    before, after = Image.open(io.BytesIO(image)), Image.open(io.BytesIO(result))
    assert before.mode == after.mode
    assert (np.asarray(before)[OUTSIDE] == np.asarray(after)[OUTSIDE]).all()
    assert after.info.get("icc_profile") == before.info.get("icc_profile")
    assert (data["max_abs_diff_outside_mask"], data["warnings"]) == (0, [])


def test_the_difference_is_that_of_the_images_own_values(client: TestClient) -> None:
    data, result = edit(client, encoded(still_life(96, 72), icc_profile=P3), composite="false")
    before = np.asarray(still_life(96, 72)).astype(int)
    after = np.asarray(Image.open(io.BytesIO(result))).astype(int)
    expected = np.abs(before - after)[OUTSIDE].max()
    assert data["max_abs_diff_outside_mask"] == expected > 0


def test_sixteen_bits(client: TestClient) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (72, 96, 3), np.uint16)
    data, result = edit(client, png.encode(values))
    found = photograph.read(result).values
    assert isinstance(found, np.ndarray)
    assert (found[OUTSIDE] == values[OUTSIDE]).all()
    assert (data["max_abs_diff_outside_mask"], data["warnings"]) == (0, [])


@pytest.mark.parametrize("output_format", ["jpeg", "webp"])
def test_other_formats_keep_the_profile_and_say_what_they_lose(
    client: TestClient, output_format: str
) -> None:
    image = encoded(clear_photo(), icc_profile=P3)
    data, result = edit(client, image, output_format=output_format)
    opened = Image.open(io.BytesIO(result))
    assert opened.info["icc_profile"] == P3
    lost = ["transparency" in sentence for sentence in data["warnings"]]
    assert (opened.mode, lost) == (("RGB", [True]) if output_format == "jpeg" else ("RGBA", []))


def test_an_opaque_background_is_white(client: TestClient) -> None:
    files = {"image": ("a.png", encoded(clear_photo()))}
    for background, shown in (("auto", "transparent"), ("opaque", "opaque")):
        form = {**FAST, "background": background}
        body = client.post("/v1/images/edits", files=files, data=form).json()
        assert body["background"] == shown
        image = Image.open(io.BytesIO(base64.b64decode(body["data"][0]["b64_json"])))
        assert image.mode == ("RGBA" if background == "auto" else "RGB")
        assert (image.getpixel((0, 0)) == (255, 255, 255)) == (background == "opaque")


def test_exif_and_resolution_are_dropped(client: TestClient) -> None:
    exif = Image.Exif()
    exif[0x010F] = "SECRETMAKER"
    _, result = edit(client, encoded(still_life(96, 72), exif=exif, dpi=(300, 300)))
    assert b"SECRETMAKER" not in result
    assert b"pHYs" not in result
