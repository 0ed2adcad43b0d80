"""`diffedit-trt serve`: what it refuses, and with which exit code."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import httpx2 as httpx
import pytest

from diffedit.cli.errors import UsageError
from diffedit.cli.serve import seconds_of, served_name, settings_of
from tests.server.kit import ROOT, free_port


def serve(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "diffedit.cli", "serve", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "words"),
    [
        (["--host", "0.0.0.0"], {}, 2, "--api-keys"),
        (["--host", "0.0.0.0", "--insecure"], {}, 2, "--allowed-host"),
        (["--port", "70000"], {}, 2, "port is wrong"),
        (["--api-keys", "none"], {}, 2, "cannot be read"),
        (["--idle-unload", "soon"], {}, 2, "10m"),
        ([], {"DIFFEDIT_SERVE_MAX_PIXELS": "many"}, 2, "max_pixels is wrong"),
        ([], {"DIFFEDIT_SERVE_MAX_PIXLES": "1"}, 2, "MAX_PIXLES"),
        (["--replicas", "2"], {}, 2, "--ray"),
        (["--ray", "--replicas", "4:2"], {}, 2, "least:most"),
        (["--ray", "--model", "none"], {}, 3, "none"),
        (["--model", "none"], {}, 3, "none"),
        (["--backend", "onnxruntime", "--port", "0"], {}, 4, "engines"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_makes_no_sense_is_one_sentence(
    arguments: list[str], environment: dict[str, str], code: int, words: str
) -> None:
    done = serve(*arguments, **environment)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_the_environment_wins_where_nothing_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFEDIT_SERVE_PORT", "1234")
    monkeypatch.setenv("DIFFEDIT_SERVE_API_KEYS", "keys")
    assert settings_of({}).port == 1234
    assert settings_of({}).api_keys == Path("keys")
    assert settings_of({"port": 1}).port == 1


def test_names_and_times(tmp_path: Path) -> None:
    (tmp_path / "toy" / "model").mkdir(parents=True)
    assert served_name(str(tmp_path / "toy" / "model")) == "toy-model"
    assert served_name(str(tmp_path / "toy")) == "toy"
    assert served_name("org/name") == "org/name"
    assert [seconds_of(t) for t in ("90", "90s", "10m", "1.5h")] == [90, 90, 600, 5400]
    for wrong in ("0", "-1", "10 m", "m"):
        with pytest.raises(UsageError):
            seconds_of(wrong)


@pytest.mark.slow
def test_it_listens_while_it_loads_and_stops_when_told(tiny: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "diffedit.cli", "serve", "--model", str(tiny)]
    process = subprocess.Popen(
        [*command, "--port", str(port), "--dtype", "fp32", "--json-log"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        seen = []
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and 200 not in seen:
            try:
                seen.append(httpx.get(f"http://127.0.0.1:{port}/readyz").status_code)
            except httpx.TransportError:
                time.sleep(0.02)
        assert seen[-1] == 200
        assert set(seen) == {503, 200}, "it answered before it was ready"
        process.terminate()
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert '"level": "info"' in process.stderr.read()
    finally:
        process.kill()
        process.communicate()
