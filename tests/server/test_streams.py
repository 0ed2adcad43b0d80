"""An accepted event stream always ends with `image_edit.completed` or `error`."""

from __future__ import annotations

import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from diffedit.server import responses
from tests.server.helpers import FAST, SLOW, ServerProcess, image_bytes, run_server, wait_until
from tests.server.test_edits import events_of

EDITS = "/v1/images/edits"
STREAM = {**SLOW, "stream": "true"}


def last_event(text: str) -> tuple[str, str]:
    """The name of the last event, and the code of its error."""
    name, data = events_of(text)[-1]
    return name, data.get("error", {}).get("code", "")


def test_result_that_cannot_be_encoded_ends_the_stream_with_an_error(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_memory(*_: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr(responses, "completed_event", no_memory)
    files = {"image": ("a.png", image_bytes())}
    response = client.post(EDITS, files=files, data={**FAST, "stream": "true"})
    assert last_event(response.text) == ("error", "out_of_memory")
    assert "its stream failed" in caplog.text


def _second_signal(server: ServerProcess) -> None:
    server.terminate()
    server.wait_until_draining()
    server.terminate()


def _poison(server: ServerProcess) -> None:
    response = server.post(EDITS, {**FAST, "prompt": "poison"})
    assert response.json()["error"]["code"] == "engine_lost"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "code"),
    [(_second_signal, "draining"), (_poison, "engine_lost")],
    ids=["signal", "lost"],
)
def test_running_and_queued_streams_end_with_an_error(
    tiny: Path, end: Callable[[ServerProcess], None], code: str
) -> None:
    """At the second signal, and when the engine dies."""
    limits = {"DIFFEDIT_SERVE_MAX_ACTIVE": "4", "DIFFEDIT_SERVE_MAX_QUEUE_SECONDS": "100000"}
    with (
        run_server(tiny, "--call-ms", "20", "--fault", "crash", **limits) as server,
        ThreadPoolExecutor(12) as pool,
    ):
        streams = [pool.submit(server.post, EDITS, STREAM) for _ in range(3)]
        server.wait_for_jobs(3)
        if end is _second_signal:
            streams += [pool.submit(server.post, EDITS, STREAM) for _ in range(9)]
            server.wait_for_jobs(4, waiting=8)
        end(server)
        for stream in streams:
            response = stream.result()
            assert response.status_code == 200
            assert last_event(response.text) == ("error", code)


@pytest.mark.slow
def test_hangup_reads_the_keys_again_and_ends_nothing(tiny: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("alice the-key-of-alice-of-some-length\n")
    headers = {"Authorization": "Bearer the-key-of-alice-of-some-length"}
    with run_server(tiny, DIFFEDIT_SERVE_API_KEYS=str(keys)) as server:
        assert server.get("/v1/models", headers=headers).status_code == 200
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "API keys read again" in server.log(), "the keys are read")
        assert server.get("/v1/models", headers=headers).status_code == 200
    with run_server(tiny) as server:
        server.process.send_signal(signal.SIGHUP)
        assert server.get("/livez").status_code == 200
        assert server.process.poll() is None
