"""Invalid requests get a documented 4xx with a helpful message, and the server keeps working."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.server.helpers import FAST, image_bytes
from tests.server.refusals import Response, error_message, post, server_keeps_working


@pytest.fixture(autouse=True)
def _server_keeps_working(client: TestClient) -> Iterator[None]:
    with server_keeps_working(client):
        yield


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
        ("preset", "", "invalid_value"),
        ("mask_cleaning", "soap", "invalid_value"),
        ("mask_threshold", "1", "invalid_value"),
        ("mask_feather", "0.3", "invalid_value"),
        ("focus", "on", "invalid_value"),
        ("context_factor", "0.5", "invalid_value"),
        ("step_scale", "1", "invalid_value"),
        ("refining_rows", "3", "invalid_value"),
        ("n_max", "1", "invalid_value"),
        ("negative_prompt", "\x07", "invalid_value"),
        ("source_prompt", "a\x1b", "invalid_value"),
        ("prompt", "\u200b", "invalid_value"),
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
    message = error_message(post(client, **data), 400, code, field)
    assert field in message


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
