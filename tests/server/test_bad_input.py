"""Whatever a stranger sends: a documented 4xx that says what to do, and a server that goes on."""

from __future__ import annotations

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
from tests.server.kit import FAST, encoded, picture

EncodedEdit = Any


@pytest.fixture(autouse=True)
def goes_on(client: TestClient) -> Iterator[None]:
    """After every bad request a good one is answered, and no temporary file is left."""
    folder = Path(tempfile.gettempdir())
    before = set(folder.glob("tmp*"))
    yield
    assert post(client).status_code == 200
    assert not {p for p in folder.glob("tmp*") if p.is_file()} - before


def post(
    client: TestClient, image: bytes | None = None, name: str = "a.png", **data: Any
) -> EncodedEdit:
    files = {"image": (name, picture() if image is None else image)}
    return client.post("/v1/images/edits", files=files, data={**FAST, **data})


def refused(answer: EncodedEdit, status: int, code: str, param: str | None = None) -> str:
    """The message of an error of this kind; it is a sentence and tells no secret."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["code"] == code, answer.text
    if param is not None:
        assert error["param"] == param
    message: str = error["message"]
    assert message[0].isupper() or message.split()[0].replace("_", "").isalpha()
    assert message.endswith((".", "?"))
    assert "Traceback" not in message
    assert "/" not in message.replace("multipart/form-data", "").replace("/openapi.json", "")
    assert answer.headers["x-request-id"]
    return message


def png_of_size(width: int, height: int) -> bytes:
    """A tiny file whose header promises a huge picture."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        whole = kind + data
        return struct.pack(">I", len(data)) + whole + struct.pack(">I", zlib.crc32(whole))

    idat = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", idat) + chunk(b"IEND", b"")


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
        (encoded(still_life(64, 64), "JPEG")[:700], 400, "invalid_value"),
        (encoded(still_life(64, 64))[:700], 400, "invalid_value"),
        (png_of_size(9000, 9000), 413, "too_many_pixels"),
        (png_of_size(60000, 1), 413, "too_many_pixels"),
        (png_of_size(1, 60000), 413, "too_many_pixels"),
        (png_of_size(14000, 14000), 413, "too_many_pixels"),
        (png_of_size(0, 10), 415, "unsupported_image"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_pictures_that_are_none(client: TestClient, image: bytes, status: int, code: str) -> None:
    refused(post(client, image), status, code)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "I;16", "RGBA", "CMYK"])
def test_every_sort_of_picture_is_edited(client: TestClient, mode: str) -> None:
    grey = np.linspace(0, 65535, 96 * 72).reshape(72, 96)
    image = Image.fromarray(grey.astype(np.uint16)) if mode == "I;16" else still_life(96, 72)
    kind = "JPEG" if mode == "CMYK" else "PNG"
    image = image if mode == "I;16" else image.convert(mode)
    answer = post(client, encoded(image, kind))
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("size", [(1, 1), (1, 64), (8192, 1), (7, 501)])
def test_odd_sizes_come_back_as_they_were(client: TestClient, size: tuple[int, int]) -> None:
    answer = post(client, encoded(Image.new("RGB", size, (200, 30, 30))))
    assert answer.status_code == 200, answer.text
    import base64

    data = base64.b64decode(answer.json()["data"][0]["b64_json"])
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
def test_fields_that_are_wrong(client: TestClient, field: str, value: str, code: str) -> None:
    data: dict[str, Any] = {field: value}
    message = refused(post(client, **data), 400, code)
    assert field in message or field == "method"


def test_an_unknown_field_names_the_nearest(client: TestClient) -> None:
    assert "prompt" in refused(post(client, promt="a"), 400, "unknown_field")


def test_fields_that_are_missing_or_given_twice(client: TestClient) -> None:
    def send(files: Any, data: Any = FAST) -> EncodedEdit:
        return client.post("/v1/images/edits", files=files, data=data)

    one = ("image", ("a.png", picture()))
    mask = ("mask", ("m.png", picture()))
    refused(send([one], {}), 400, "missing_field", "prompt")
    refused(send([mask]), 400, "missing_field", "image")
    refused(send([one, one]), 400, "duplicate_field", "image")
    refused(send([one, ("image[]", ("b.png", picture()))]), 400, "duplicate_field", "image")
    refused(send([one, mask, mask]), 400, "duplicate_field", "mask")
    refused(send([one], {**FAST, "seed": ["1", "2"]}), 400, "duplicate_field", "seed")
    refused(send([one], {**FAST, "mask": "text"}), 400, "not_a_file", "mask")
    refused(send([one, ("prompt", ("p.txt", b"a ball"))], {}), 400, "not_text", "prompt")


def test_masks_that_do_not_fit(client: TestClient) -> None:
    def send(mask: bytes, **data: Any) -> EncodedEdit:
        files = {"image": ("a.png", picture()), "mask": ("m.png", mask)}
        return client.post("/v1/images/edits", files=files, data={**FAST, **data})

    refused(send(encoded(Image.new("L", (95, 72)))), 400, "mask_size", "mask")
    refused(send(encoded(Image.new("L", (72, 96)))), 400, "mask_size", "mask")
    refused(send(b"no mask"), 415, "unsupported_image", "mask")
    plain = encoded(Image.new("L", (96, 72), 255))
    refused(send(plain, mask_format="alpha"), 400, "mask_without_alpha", "mask_format")
    refused(send(plain, method="sdedit"), 400, "invalid_value", "mask")
    refused(send(plain, mask_dilation="2"), 400, "invalid_value", "mask_dilation")
    damaged = encoded(still_life(96, 72).convert("LA"))[:1000]
    refused(send(damaged, mask_format="alpha"), 400, "damaged_image", "mask")
    empty = send(encoded(Image.new("L", (96, 72), 0)))
    assert empty.status_code == 200
    assert "mask" in " ".join(empty.json()["data"][0]["warnings"])


@pytest.mark.parametrize(
    ("kind", "body", "status", "code"),
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
def test_bodies_that_are_no_form(
    client: TestClient, kind: str | None, body: bytes, status: int, code: str
) -> None:
    headers = {"Content-Type": kind} if kind else {}
    answer = client.post("/v1/images/edits", content=body, headers=headers)
    assert answer.status_code in (status, 400), answer.text
    assert answer.json()["error"]["code"] in (code, "missing_field")


def test_a_body_over_the_limit(client: TestClient) -> None:
    refused(post(client, b"\0" * 20_000_001), 413, "too_large")

    def chunks() -> Iterator[bytes]:
        yield b"--x\r\nContent-Disposition: form-data; name=image; filename=a\r\n\r\n"
        for _ in range(21):
            yield b"\0" * 1_000_000

    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    refused(client.post("/v1/images/edits", content=chunks(), headers=kind), 413, "too_large")


def test_many_fields_long_fields_and_compressed_bodies(client: TestClient) -> None:
    data = {f"field{i}": "x" for i in range(10_000)}
    files = {"image": ("a.png", picture())}
    refused(client.post("/v1/images/edits", files=files, data=data), 400, "malformed_form")
    many = [("image", ("a.png", b"x")) for _ in range(2000)]
    refused(client.post("/v1/images/edits", files=many, data=FAST), 400, "malformed_form")
    refused(post(client, prompt="x" * 10_000_000), 413, "too_large")
    zipped = client.post(
        "/v1/images/edits",
        content=zlib.compress(b"x"),
        headers={"Content-Encoding": "gzip", "Content-Type": "multipart/form-data; boundary=x"},
    )
    refused(zipped, 415, "unsupported_encoding")


@pytest.mark.parametrize("name", ["../../etc/x", "..\\x", "a" * 5000, "CON", "a;b\n.png", ""])
def test_names_of_files_are_never_used(client: TestClient, name: str) -> None:
    assert post(client, name=name).status_code in (200, 400)


def test_texts_are_only_texts(client: TestClient) -> None:
    for text in ("{{7*7}} <script>alert(1)</script>", "'; drop table", "שלום 🎈", "../../x"):
        assert post(client, prompt=text).status_code == 200
    long = post(client, prompt="a red ball " * 60).json()["data"][0]
    assert any("77 tokens" in warning for warning in long["warnings"])


def test_paths_and_methods_that_are_not_there(client: TestClient) -> None:
    refused(client.get("/v1/images/edits"), 405, "method_not_allowed")
    refused(client.get("/v2/none"), 404, "not_found")
    refused(client.get("/v1/jobs/none"), 404, "no_such_job", "job_id")
    refused(client.get("/v1/jobs/none/image?index=x"), 400, "invalid_value", "index")
    refused(client.get("/v1/jobs/..%2F..%2Fetc%2Fpasswd/image"), 404, "not_found")
    refused(post(client, model="gpt-image-1"), 404, "model_not_found", "model")


def test_deadlines_that_cannot_be_kept(client: TestClient) -> None:
    def send(value: str) -> EncodedEdit:
        files = {"image": ("a.png", picture())}
        headers = {"X-Request-Timeout": value}
        return client.post("/v1/images/edits", files=files, data=FAST, headers=headers)

    refused(send("0.0001"), 400, "deadline_impossible")
    for wrong in ("-1", "soon", "nan", "1e12"):
        refused(send(wrong), 400, "invalid_value")
