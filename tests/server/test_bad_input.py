"""Invalid requests get a documented 4xx with a helpful message, and the server keeps working."""

from __future__ import annotations

import base64
import io
import struct
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from demo.picture import still_life
from tests.server.helpers import FAST, encoded, image_bytes

Response = Any
ALLOWED_SLASHES = ("multipart/form-data", "application/json", "text/plain", "/openapi.json")
"""Texts with a slash that error messages may contain; paths of files they may not."""


@pytest.fixture(autouse=True)
def server_keeps_working(client: TestClient) -> Iterator[None]:
    """After each test a valid request succeeds, and no temporary file is left."""
    folder = Path(tempfile.gettempdir())
    before = set(folder.glob("tmp*"))
    yield
    assert post(client).status_code == 200
    assert not {p for p in folder.glob("tmp*") if p.is_file()} - before


def post(
    client: TestClient, image: bytes | None = None, name: str = "a.png", **data: Any
) -> Response:
    files = {"image": (name, image_bytes() if image is None else image)}
    return client.post("/v1/images/edits", files=files, data={**FAST, **data})


def error_message(response: Response, status: int, code: str, param: str | None = None) -> str:
    """Check an error response and return its message: a sentence without paths or traces."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["code"] == code, response.text
    if param is not None:
        assert error["param"] == param
    message: str = error["message"]
    assert message[0].isupper() or message.split()[0].replace("_", "").isalpha()
    assert message.endswith((".", "?"))
    assert "Traceback" not in message
    for text in ALLOWED_SLASHES:
        message = message.replace(text, "")
    assert "/" not in message
    assert response.headers["x-request-id"]
    return str(error["message"])


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


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("n", "0", "invalid_value"),
        ("n", "11", "invalid_value"),
        ("n", "-1", "invalid_value"),
        ("n", "2.5", "invalid_value"),
        ("n", "1e9", "invalid_value"),
        ("n", '"2"', "invalid_value"),
        ("num_inference_steps", "0", "invalid_value"),
        ("num_inference_steps", "10000", "invalid_value"),
        ("num_inference_steps", "ten", "invalid_value"),
        ("num_inference_steps", "5.0", "invalid_value"),
        ("strength", "nan", "invalid_value"),
        ("strength", "Infinity", "invalid_value"),
        ("strength", "-0.1", "invalid_value"),
        ("strength", "1.1", "invalid_value"),
        ("strength", "0", "invalid_value"),
        ("strength", "1_0", "invalid_value"),
        ("guidance_scale", "1e9", "invalid_value"),
        ("guidance_interval", "0.6", "invalid_value"),
        ("guidance_interval", "0.9,0.6", "invalid_value"),
        ("guidance_interval", "0,2", "invalid_value"),
        ("inversion_stride", "0", "invalid_value"),
        ("mask_tolerance", "-0.1", "invalid_value"),
        ("preset", "fast", "invalid_value"),
        ("guidance_scale", "", "invalid_value"),
        ("seed", "-1", "invalid_value"),
        ("seed", str(2**63), "invalid_value"),
        ("seed", str(2**64 + 1), "invalid_value"),
        ("seed", "1.5", "invalid_value"),
        ("seed", "٣", "invalid_value"),
        ("size", "100000x1", "invalid_value"),
        ("size", "0x0", "invalid_value"),
        ("size", "512", "invalid_value"),
        ("output_format", "exe", "invalid_value"),
        ("output_compression", "101", "invalid_value"),
        ("response_format", "url", "invalid_value"),
        ("partial_images", "4", "invalid_value"),
        ("composite", "perhaps", "invalid_value"),
        ("stream", "2", "invalid_value"),
        ("method", "magic", "invalid_value"),
        ("mask_format", "red", "invalid_value"),
        ("prompt", "   ", "invalid_value"),
        ("prompt", "a\0b", "invalid_value"),
        ("prompt", "x" * 5000, "too_long"),
        ("promt", "a ball", "unknown_field"),
        ("output_path", "here", "unknown_field"),
        ("image_url", "http://localhost", "unknown_field"),
    ],
)
def test_invalid_field_values(client: TestClient, field: str, value: str, code: str) -> None:
    data: dict[str, Any] = {field: value}
    message = error_message(post(client, **data), 400, code)
    assert field in message or field == "method"


def test_unknown_field_suggests_the_nearest_name(client: TestClient) -> None:
    assert "prompt" in error_message(post(client, promt="a"), 400, "unknown_field")


def test_missing_and_repeated_fields(client: TestClient) -> None:
    def send(files: Any, data: Any = FAST) -> Response:
        return client.post("/v1/images/edits", files=files, data=data)

    image = ("image", ("a.png", image_bytes()))
    mask = ("mask", ("m.png", image_bytes()))
    error_message(send([image], {}), 400, "missing_field", "prompt")
    error_message(send([mask]), 400, "missing_field", "image")
    error_message(send([image, image]), 400, "duplicate_field", "image")
    error_message(
        send([image, ("image[]", ("b.png", image_bytes()))]), 400, "duplicate_field", "image"
    )
    error_message(send([image, mask, mask]), 400, "duplicate_field", "mask")
    error_message(send([image], {**FAST, "seed": ["1", "2"]}), 400, "duplicate_field", "seed")
    error_message(send([image], {**FAST, "mask": "text"}), 400, "not_a_file", "mask")
    error_message(send([image, ("prompt", ("p.txt", b"a ball"))], {}), 400, "not_text", "prompt")


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


@pytest.mark.parametrize(
    ("content_type", "body", "status", "code"),
    [
        ("application/json", b"{}", 415, "unsupported_media_type"),
        (None, b"abc", 415, "unsupported_media_type"),
        ("text/plain", b"abc", 415, "unsupported_media_type"),
        ("multipart/form-data", b"abc", 400, "malformed_form"),
        ("multipart/form-data; boundary=", b"abc", 400, "malformed_form"),
        ("multipart/form-data; boundary=" + "x" * 10_000, b"abc", 400, "malformed_form"),
        ("multipart/form-data; boundary=x", b"abc", 400, "malformed_form"),
        ("multipart/form-data; boundary=x", b"--x\r\n\r\nabc", 400, "malformed_form"),
    ],
)
def test_invalid_bodies(
    client: TestClient, content_type: str | None, body: bytes, status: int, code: str
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    error_message(client.post("/v1/images/edits", content=body, headers=headers), status, code)


def test_body_over_the_size_limit(client: TestClient) -> None:
    error_message(post(client, b"\0" * 20_000_001), 413, "too_large")

    def chunks() -> Iterator[bytes]:
        yield b"--x\r\nContent-Disposition: form-data; name=image; filename=a\r\n\r\n"
        for _ in range(21):
            yield b"\0" * 1_000_000

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    response = client.post("/v1/images/edits", content=chunks(), headers=headers)
    error_message(response, 413, "too_large")


def test_many_fields_long_fields_and_compressed_bodies(client: TestClient) -> None:
    data = {f"field{i}": "x" for i in range(10_000)}
    files = {"image": ("a.png", image_bytes())}
    error_message(client.post("/v1/images/edits", files=files, data=data), 400, "malformed_form")
    many = [("image", ("a.png", b"x")) for _ in range(2000)]
    error_message(client.post("/v1/images/edits", files=many, data=FAST), 400, "malformed_form")
    error_message(post(client, prompt="x" * 10_000_000), 413, "too_large")
    zipped = client.post(
        "/v1/images/edits",
        content=zlib.compress(b"x"),
        headers={"Content-Encoding": "gzip", "Content-Type": "multipart/form-data; boundary=x"},
    )
    error_message(zipped, 415, "unsupported_encoding")


@pytest.mark.parametrize("name", ["../../etc/x", "..\\x", "CON", "a;b\n.png"])
def test_file_names_are_ignored(client: TestClient, name: str) -> None:
    assert post(client, name=name).status_code == 200


def test_empty_and_very_long_file_names(client: TestClient) -> None:
    error_message(post(client, name=""), 400, "not_a_file", "image")
    error_message(post(client, name="a" * 5000), 400, "malformed_form")


def test_prompts_are_plain_text(client: TestClient) -> None:
    for text in ("{{7*7}} <script>alert(1)</script>", "'; drop table", "שלום 🎈", "../../x"):
        assert post(client, prompt=text).status_code == 200
    long = post(client, prompt="a red ball " * 60).json()["data"][0]
    assert any("77 tokens" in warning for warning in long["warnings"])


def test_unknown_paths_methods_jobs_and_models(client: TestClient) -> None:
    error_message(client.get("/v1/images/edits"), 405, "method_not_allowed")
    error_message(client.get("/v2/none"), 404, "not_found")
    error_message(client.get("/v1/jobs/none"), 404, "no_such_job", "job_id")
    message = error_message(
        client.get("/v1/jobs/none/image?index=x"), 400, "invalid_value", "index"
    )
    assert message == "index is 'x', but must be a whole number; correct it."
    error_message(client.get("/v1/jobs/..%2F..%2Fetc%2Fpasswd/image"), 404, "not_found")
    error_message(post(client, model="gpt-image-1"), 404, "model_not_found", "model")


def test_impossible_and_invalid_time_limits(client: TestClient) -> None:
    def send(value: str) -> Response:
        files = {"image": ("a.png", image_bytes())}
        headers = {"X-Request-Timeout": value}
        return client.post("/v1/images/edits", files=files, data=FAST, headers=headers)

    error_message(send("0.0001"), 400, "deadline_impossible")
    for wrong in ("-1", "soon", "nan", "1e12"):
        error_message(send(wrong), 400, "invalid_value")
