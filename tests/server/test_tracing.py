"""Traces: one span for a request, with a span for each stage inside, in the client's trace."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.server.helpers import FAST, image_bytes

pytest.importorskip("opentelemetry.sdk", reason="needs the telemetry extra")

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}


@pytest.fixture
def exporter(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Receives the spans of the server's tracer."""
    found = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(found))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    yield found
    provider.shutdown()


def send(client: TestClient, path: str, **fields: str) -> Any:
    files = {"image": ("a.png", image_bytes())}
    return client.post(path, files=files, data={**FAST, **fields}, headers=PARENT)


def test_request_and_stages_are_spans_of_the_clients_trace(
    client: TestClient, exporter: InMemorySpanExporter
) -> None:
    response = send(client, "/v1/images/edits", seed="91")
    assert response.status_code == 200, response.text
    spans: list[Any] = [*exporter.get_finished_spans()]
    *children, root = sorted(spans, key=lambda span: span.name == "edit")
    assert [span.name for span in children] == [
        *("queue", "prepare", "mask", "encode", "decode", "compose")
    ]
    assert f"{root.context.trace_id:032x}" == TRACE
    assert all(span.parent.span_id == root.context.span_id for span in children)
    assert all(root.start_time <= span.start_time <= span.end_time for span in children)
    assert max(span.end_time for span in children) <= root.end_time + 1_000_000
    attributes = dict(root.attributes)
    assert attributes["diffedit.request_id"] == response.headers["x-request-id"]
    assert attributes["diffedit.rows.unet"] == response.json()["data"][0]["rows"]["unet"]
    assert not any(FAST["prompt"] in str(value) for value in attributes.values())


def test_failed_request_is_an_error(client: TestClient, exporter: InMemorySpanExporter) -> None:
    assert send(client, "/v1/masks", method="sdedit").status_code == 400
    (root,) = [span for span in exporter.get_finished_spans() if span.name == "find mask"]
    assert root.status.status_code is trace.StatusCode.ERROR
    assert root.status.description == "invalid_value"
