"""Malformed headers are refused with 4xx or ignored, before and after the check of the key."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.server.conftest import MakeServer
from tests.server.helpers import FAST, LiveServer, image_bytes

KEY = "correct-horse-battery-staple"
ODD_BYTES = b"\xff\xfe\x80\xe2\x84\x80"
LONG = b"9" * 30_000


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(f"alice {KEY}\n")
    return file


HEADERS = [
    (b"Origin", b"http://["),
    (b"Origin", b"http://[::1"),
    (b"Origin", b"http://a]b"),
    (b"Origin", b"//[x]:y"),
    (b"Origin", b"http://[v1.\xff]"),
    (b"Origin", b"http://%zz@\xe2\x84\x80"),
    (b"Origin", ODD_BYTES),
    (b"Origin", b""),
    (b"Origin", LONG),
    (b"Host", b"["),
    (b"Host", b"[::1"),
    (b"Host", ODD_BYTES),
    (b"Host", LONG),
    (b"Content-Length", b"-1"),
    (b"Content-Length", b"1e3"),
    (b"Content-Length", b"\xb2"),
    (b"Content-Length", LONG),
    (b"Content-Type", ODD_BYTES),
    (b"Content-Type", b"multipart/form-data; boundary=" + ODD_BYTES),
    (b"Content-Type", b"multipart/form-data; boundary=x; charset=punycode"),
    (b"Content-Type", b"multipart/form-data; boundary=x; charset=undefined"),
    (b"Content-Type", b"multipart/form-data; boundary=x; charset=\xff"),
    (b"Content-Type", b'multipart/form-data; boundary="'),
    (b"Range", b"bytes=9-1"),
    (b"Range", b"bytes=" + ODD_BYTES),
    (b"Range", LONG),
    (b"Last-Event-ID", ODD_BYTES),
    (b"Last-Event-ID", LONG),
    (b"Last-Event-ID", b"-5"),
    (b"Idempotency-Key", ODD_BYTES),
    (b"Idempotency-Key", LONG),
    (b"X-Request-Timeout", ODD_BYTES),
    (b"X-Request-Timeout", LONG),
    (b"X-Request-Id", ODD_BYTES),
    (b"Authorization", ODD_BYTES),
    (b"Authorization", b"Bearer " + ODD_BYTES),
    (b"Authorization", b"Bearer " + LONG),
    (b"X-Forwarded-For", ODD_BYTES),
    (b"X-Forwarded-Proto", ODD_BYTES),
    (b"Cookie", ODD_BYTES),
    (b"Accept-Encoding", ODD_BYTES),
]

BODY = (
    b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na b\xff\r\n'
    b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    + image_bytes(16, 16)
    + b"\r\n--x--\r\n"
)


def request(method: bytes, path: bytes, name: bytes, value: bytes, key: str | None) -> bytes:
    """The bytes of a request with one header replaced or added."""
    headers = {b"host": b"localhost"}
    if key is not None:
        headers[b"authorization"] = f"Bearer {key}".encode()
    body = BODY if method == b"POST" else b""
    if body:
        headers[b"content-type"] = b"multipart/form-data; boundary=x"
        headers[b"content-length"] = str(len(body)).encode()
    headers[name.lower()] = value
    lines = [b"%s %s HTTP/1.1" % (method, path), *(b"%s: %s" % h for h in headers.items())]
    return b"\r\n".join([*lines, b"connection: close", b"", body])


def status_of(response: bytes) -> int:
    match = re.match(rb"HTTP/1\.1 (\d{3}) ", response)
    assert match, response[:100]
    return int(match[1])


@pytest.mark.parametrize("key", [None, KEY], ids=["without key", "with key"])
def test_malformed_headers_never_cause_an_error_of_the_server(
    make_server: MakeServer, keys: Path, key: str | None
) -> None:
    server = make_server(api_keys=keys, upload_seconds=5.0)
    statuses = {}
    for name, value in HEADERS:
        for method, path in (
            (b"GET", b"/livez"),
            (b"GET", b"/v1/jobs/none/events"),
            (b"POST", b"/v1/jobs"),
        ):
            status = status_of(server.send(request(method, path, name, value, key)))
            statuses[method, path, name, value[:40]] = status
    wrong = {case: status for case, status in statuses.items() if status >= 500}
    assert not wrong
    assert server.get("/livez").status_code == 200


@pytest.mark.parametrize("origin", ["http://[", "http://[::1", "http://a]b"])
def test_malformed_origin_is_a_foreign_origin(make_server: MakeServer, origin: str) -> None:
    server = make_server()
    response = server.get("/livez", headers={"Origin": origin})
    assert (response.status_code, response.json()["error"]["code"]) == (403, "foreign_origin")


def test_headers_are_named_in_errors(make_server: MakeServer) -> None:
    server: LiveServer = make_server()
    for name, value in (("X-Request-Timeout", "soon"), ("Idempotency-Key", "k" * 257)):
        headers: dict[str, Any] = {name: value}
        error = server.post("/v1/jobs", FAST, **headers).json()["error"]
        assert (error["code"], error["param"]) == ("invalid_value", name)


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/", "/page.js", "/v1/models", "/v1/jobs/x"])
def test_head_is_get_without_the_body(client: TestClient, path: str) -> None:
    head, get = client.head(path), client.get(path)
    assert head.status_code == get.status_code
    assert head.content == b""
    assert head.headers["content-length"] == str(len(get.content))
    assert head.headers["content-type"] == get.headers["content-type"]


def test_head_of_an_event_stream_is_refused(client: TestClient) -> None:
    assert client.head("/v1/jobs/x/events").status_code == 405
