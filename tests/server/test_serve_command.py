"""`diffedit-trt serve`: options, settings and exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2 as httpx
import pytest
from PIL.Image import Image

from diffedit import DiffEditPipeline
from diffedit.cli import main
from diffedit.cli.errors import UsageError
from diffedit.cli.serve import make_settings, parse_duration, served_name
from diffedit.server import run
from tests.server.helpers import DEADLINE_SECONDS, ROOT, free_port, wait_until

COMMAND = [sys.executable, "-m", "diffedit.cli", "serve"]


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["--host", "0.0.0.0"], {}, "--api-keys"),
        (["--host", "0.0.0.0", "--insecure"], {}, "--allowed-host"),
        (["--port", "70000"], {}, "port is invalid"),
        (["--api-keys", "none"], {}, "cannot be read"),
        (["--api-keys", "."], {}, "cannot be read"),
        (["--idle-unload", "soon"], {}, "10m"),
        (["--idle-unload", ""], {}, "10m"),
        (["--idle-unload", "\u0663m"], {}, "10m"),
        (["--allowed-host", ""], {}, "allowed_hosts is invalid"),
        (["--host", "0.0.0.0", "--insecure", "--allowed-host", ""], {}, "allowed_hosts is invalid"),
        (["--served-model-name", " "], {}, "served_model_names is invalid"),
        ([], {"DIFFEDIT_SERVER_PORT": "80"}, "did you mean DIFFEDIT_SERVE_PORT?"),
        ([], {"DIFFEDIT_SERVE_MAX_PIXELS": "many"}, "max_pixels is invalid"),
        ([], {"DIFFEDIT_SERVE_MAX_PIXLES": "1"}, "MAX_PIXLES"),
        (["--replicas", "2"], {}, "--ray"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_invalid_options_exit_with_2(
    arguments: list[str],
    environment: dict[str, str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(run, "log_to_stderr", lambda **_: None)
    with pytest.raises(SystemExit) as exit_info:
        main(["serve", *arguments])
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--ray", "--replicas", "4:2"], 2, "MIN:MAX"),
        (["--ray", "--model", "none"], 3, "none"),
        (["--model", "none"], 3, "none"),
        (["--backend", "onnxruntime", "--port", "0"], 4, "engines"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_errors_of_the_process(arguments: list[str], code: int, message: str) -> None:
    done = subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_options_override_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFEDIT_SERVE_PORT", "1234")
    monkeypatch.setenv("DIFFEDIT_SERVE_API_KEYS", "keys")
    assert make_settings({}).port == 1234
    assert make_settings({}).api_keys == Path("keys")
    assert make_settings({"port": 1}).port == 1


def test_model_options_reach_the_pipeline(
    tiny: Path, photo: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    openers: list[Callable[[], DiffEditPipeline]] = []
    monkeypatch.setattr("diffedit.server.create_app", lambda opener, *_: openers.append(opener))
    monkeypatch.setattr(run, "run", lambda *_: 0)
    with pytest.raises(SystemExit):
        main(["serve", "--model", str(tiny), "--size", "64x32", "--dtype", "fp32", "--port", "0"])
    with openers[0]() as pipeline:
        assert "fp32" in pipeline.describe()
        assert pipeline.invert(photo, 2).shape[-2:] == (16, 8)


def test_served_name_is_the_folder_or_the_hub_id(tmp_path: Path) -> None:
    (tmp_path / "toy" / "model").mkdir(parents=True)
    assert served_name(str(tmp_path / "toy" / "model")) == "toy-model"
    assert served_name(str(tmp_path / "toy")) == "toy"
    assert served_name("org/name") == "org/name"


def test_durations() -> None:
    assert [parse_duration(text) for text in ("90", "90s", "10m", "1.5h")] == [90, 90, 600, 5400]
    for invalid in ("0", "-1", "10 m", "m"):
        with pytest.raises(UsageError):
            parse_duration(invalid)


@pytest.fixture
def server(tiny: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server process that has just been started, and its URL."""
    port = free_port()
    process = subprocess.Popen(
        [*COMMAND, "--model", str(tiny), "--port", str(port), "--dtype", "fp32", "--json-log"],
        cwd=ROOT,
        env=os.environ,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield process, f"http://127.0.0.1:{port}"
    process.kill()
    process.communicate()


@pytest.mark.slow
def test_server_listens_while_it_loads_and_stops_on_sigterm(
    server: tuple[subprocess.Popen[str], str],
) -> None:
    process, url = server
    statuses: list[int] = []

    def ready() -> bool:
        try:
            statuses.append(httpx.get(f"{url}/readyz", timeout=DEADLINE_SECONDS).status_code)
        except httpx.TransportError:
            assert process.poll() is None
        return statuses[-1:] == [200]

    wait_until(ready, "the server is ready")
    assert set(statuses) == {503, 200}, "it responds before it is ready"
    process.terminate()
    assert process.wait(DEADLINE_SECONDS) == 0
    assert process.stderr is not None
    assert '"level": "info"' in process.stderr.read()
