"""Invalid images and masks get a documented 4xx, and unusual ones are accepted."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from demo.picture import still_life
from tests.server.helpers import FAST, encoded, image_bytes
from tests.server.refusals import Response, error_message, post, server_keeps_working


@pytest.fixture(autouse=True)
def _server_keeps_working(client: TestClient) -> Iterator[None]:
    with server_keeps_working(client):
        yield


def png_of_size(width: int, height: int) -> bytes:
    """A tiny file whose header claims this size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)

    def chunk(name: bytes, data: bytes) -> bytes:
        content = name + data
        return struct.pack(">I", len(data)) + content + struct.pack(">I", zlib.crc32(content))

    idat = zlib.compress(b"\0" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", idat) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("image", "status", "code"),
    [
        (b"", 400, "empty_file"),
        (b"this is text", 415, "unsupported_image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>", 415, "unsupported_image"),
        (encoded(still_life(32, 32), "TIFF"), 415, "unsupported_image"),
        (encoded(still_life(32, 32), "GIF"), 415, "unsupported_image"),
        (encoded(still_life(32, 32), "BMP"), 415, "unsupported_image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", 415, "unsupported_image"),
        (encoded(still_life(64, 64), "JPEG")[:700], 400, "damaged_image"),
        (encoded(still_life(64, 64))[:700], 400, "damaged_image"),
        (png_of_size(9000, 9000), 413, "too_many_pixels"),
        (png_of_size(60000, 1), 413, "too_many_pixels"),
        (png_of_size(1, 60000), 413, "too_many_pixels"),
        (png_of_size(14000, 14000), 413, "too_many_pixels"),
        (png_of_size(0, 10), 415, "unsupported_image"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_invalid_images(client: TestClient, image: bytes, status: int, code: str) -> None:
    error_message(post(client, image), status, code)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "I;16", "RGBA", "CMYK"])
def test_every_image_mode_is_accepted(client: TestClient, mode: str) -> None:
    grey = np.linspace(0, 65535, 96 * 72).reshape(72, 96)
    image = Image.fromarray(grey.astype(np.uint16)) if mode == "I;16" else still_life(96, 72)
    image = image if mode == "I;16" else image.convert(mode)
    response = post(client, encoded(image, "JPEG" if mode == "CMYK" else "PNG"))
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("size", [(1, 1), (1, 64), (8192, 1), (7, 501)])
def test_unusual_sizes_are_kept(client: TestClient, size: tuple[int, int]) -> None:
    response = post(client, encoded(Image.new("RGB", size, (200, 30, 30))))
    assert response.status_code == 200, response.text
    data = base64.b64decode(response.json()["data"][0]["b64_json"])
    assert Image.open(io.BytesIO(data)).size == size


def test_invalid_masks(client: TestClient) -> None:
    def send(mask: bytes, **data: Any) -> Response:
        files = {"image": ("a.png", image_bytes()), "mask": ("m.png", mask)}
        return client.post("/v1/images/edits", files=files, data={**FAST, **data})

    error_message(send(encoded(Image.new("L", (95, 72)))), 400, "mask_size", "mask")
    turned = error_message(send(encoded(Image.new("L", (72, 96)))), 400, "mask_size", "mask")
    assert "turned by 90 degrees" in turned
    error_message(send(b"no mask"), 415, "unsupported_image", "mask")
    plain = encoded(Image.new("L", (96, 72), 255))
    error_message(send(plain, mask_format="alpha"), 400, "mask_without_alpha", "mask_format")
    error_message(send(plain, method="sdedit"), 400, "invalid_value", "mask")
    error_message(send(plain, mask_dilation="2"), 400, "invalid_value", "mask_dilation")
    damaged = encoded(still_life(96, 72).convert("LA"))[:1000]
    error_message(send(damaged, mask_format="alpha"), 400, "damaged_image", "mask")
    error_message(send(encoded(Image.new("L", (96, 72), 0))), 400, "empty_mask", "mask")
    error_message(send(encoded(Image.new("L", (96, 72), 90))), 400, "empty_mask", "mask")
    error_message(send(plain, mask_format="black"), 400, "empty_mask", "mask")
    error_message(send(image_bytes()), 400, "not_a_mask", "mask")
    red = Image.new("RGB", (96, 72))
    red.paste((255, 0, 0), (10, 10, 50, 50))
    error_message(send(encoded(red)), 400, "not_a_mask", "mask")
