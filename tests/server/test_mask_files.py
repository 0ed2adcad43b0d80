"""POST /v1/masks/read: mask files are read as an edit reads them, or refused with a sentence."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from demo.picture import still_life
from tests.server.helpers import encoded, image_bytes
from tests.server.test_chains import code_and_param, edited

PATH = "/v1/masks/read"
SIZE = (96, 64)
IMAGE = image_bytes(*SIZE)


def square(mode: str, size: tuple[int, int], background: Any, inside: Any) -> Image.Image:
    """A mask whose middle quarter has another value."""
    mask = Image.new(mode, size, background)
    width, height = size
    ImageDraw.Draw(mask).rectangle(
        [width // 4, height // 4, width * 3 // 4 - 1, height * 3 // 4 - 1], inside
    )
    return mask


def read(client: TestClient, mask: Image.Image | bytes, **fields: str) -> Any:
    data = mask if isinstance(mask, bytes) else encoded(mask)
    form = {"width": str(SIZE[0]), "height": str(SIZE[1]), **fields}
    return client.post(PATH, files={"mask": ("mask.png", data)}, data=form)


def pixels(body: dict[str, Any]) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(body["mask"]))))


MIDDLE = np.asarray(square("L", SIZE, 0, 255))


@pytest.mark.parametrize(
    ("mask", "read_as"),
    [
        (square("L", SIZE, 0, 255), "white"),
        (square("RGBA", SIZE, (90, 80, 70, 255), (0, 0, 0, 0)), "alpha"),
        (square("L", (192, 128), 0, 255), "white"),
    ],
    ids=["white on black", "a hole", "twice as large"],
)
def test_masks_are_read_by_their_pixels(
    client: TestClient, mask: Image.Image, read_as: str
) -> None:
    body = read(client, mask).json()
    assert (body["mask_read_as"], body["mask_share"], body["warnings"]) == (read_as, 0.25, [])
    np.testing.assert_array_equal(pixels(body), MIDDLE)


def test_format_and_grey_levels(client: TestClient) -> None:
    black = read(client, square("L", SIZE, 255, 0), mask_format="black").json()
    assert black["mask_read_as"] == "black"
    np.testing.assert_array_equal(pixels(black), MIDDLE)
    soft = square("L", SIZE, 0, 255)
    ImageDraw.Draw(soft).rectangle([0, 0, 23, 63], 100)
    body = read(client, soft).json()
    assert set(np.unique(pixels(body))) == {0, 100, 255}
    assert "soft" in body["warnings"][0]
    assert body["mask_share"] == 0.5


def test_the_mask_that_is_shown_is_the_mask_of_the_edit(client: TestClient) -> None:
    mask = square("RGBA", SIZE, (90, 80, 70, 255), (0, 0, 0, 0))
    shown = pixels(read(client, mask).json())
    edit = edited(client, IMAGE, mask=encoded(mask))
    np.testing.assert_array_equal(pixels(edit), shown)


@pytest.mark.parametrize(
    ("mask", "code", "words"),
    [
        (still_life(*SIZE), "not_a_mask", "looks like a photograph"),
        (Image.new("L", SIZE, 0), "empty_mask", "paint the area"),
        (square("L", (64, 64), 0, 255), "mask_size", "another aspect ratio"),
        (square("RGB", SIZE, (0, 0, 0), (255, 0, 0)), "not_a_mask", "2 colors"),
        (b"GIF89a", "unsupported_image", "neither PNG, JPEG nor WebP"),
        (b"", "empty_file", "empty file"),
    ],
    ids=["photograph", "black", "aspect", "strokes", "no picture", "empty"],
)
def test_what_is_no_mask_is_refused_with_a_sentence(
    client: TestClient, mask: Image.Image | bytes, code: str, words: str
) -> None:
    response = read(client, mask)
    assert code_and_param(response)[1:] == (code, "mask")
    assert words in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"width": "0"}, (400, "invalid_value", "width")),
        ({"width": "8193"}, (400, "invalid_value", "width")),
        ({"height": "1e3"}, (400, "invalid_value", "height")),
        ({"height": ""}, (400, "invalid_value", "height")),
        ({"width": "8192", "height": "8192"}, (413, "too_many_pixels", "width")),
        ({"mask_format": "grey"}, (400, "invalid_value", "mask_format")),
        ({"prompt": "a ball"}, (400, "unknown_field", "prompt")),
    ],
)
def test_bad_fields(
    client: TestClient, fields: dict[str, str], expected: tuple[int, str, str]
) -> None:
    assert code_and_param(read(client, square("L", SIZE, 0, 255), **fields)) == expected


def test_bad_forms(client: TestClient) -> None:
    size = {"width": "96", "height": "64"}
    file = ("mask.png", encoded(square("L", SIZE, 0, 255)))
    for files, data, expected in [
        ({"mask": file}, {"width": "96"}, (400, "missing_field", "height")),
        ({"width": (None, "96"), "height": (None, "64")}, {}, (400, "missing_field", "mask")),
        ({"mask": (None, "text")}, size, (400, "not_a_file", "mask")),
        ({"mask": file, "width": file}, {"height": "64"}, (400, "not_text", "width")),
        ([("mask", file), ("mask", file)], size, (400, "duplicate_field", "mask")),
    ]:
        response = client.post(PATH, files=files, data=data)  # type: ignore[arg-type]
        assert code_and_param(response) == expected
    assert client.post(PATH, json=size).status_code == 415
