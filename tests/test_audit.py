"""The audit of the pinned packages: the real pip-audit with a fake advisory service."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pip_audit", reason="needs the dev extra")

from tests import audit

Answers = Callable[[str, str], tuple[int, dict[str, Any]]]
FLAW: dict[str, Any] = {
    "id": "PYSEC-2026-1",
    "summary": "made up",
    "affected": [
        {
            "package": {"name": "pillow", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.0"}]}],
        }
    ],
}


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """pip-audit's options for a service with OSV's API; nothing is cached elsewhere."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return ["--cache-dir", str(tmp_path), "--vulnerability-service", "osv", "--osv-url"]


@pytest.fixture
def service() -> Iterator[Callable[[Answers], str]]:
    """The address of a service that gives these answers for a name and a version."""
    opened: list[ThreadingHTTPServer] = []

    def start(answers: Answers) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, answer = answers(asked["package"]["name"], asked["version"])
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def log_message(self, *arguments: Any) -> None:
                pass

        opened.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=opened[-1].serve_forever).start()
        return f"http://127.0.0.1:{opened[-1].server_port}/"

    yield start
    for server in opened:
        server.shutdown()
        server.server_close()


def test_every_pin_is_asked_about_and_nothing_known_is_well(
    options: list[str], service: Callable[[Answers], str], capsys: pytest.CaptureFixture[str]
) -> None:
    asked: set[tuple[str, str]] = set()

    def answers(name: str, version: str) -> tuple[int, dict[str, Any]]:
        asked.add((name, version))
        return 200, {}

    assert audit.main([*options, service(answers)]) == 0
    pins = [line for line in audit.CONSTRAINTS.read_text().splitlines() if "==" in line]
    assert len(asked) == len(pins)
    assert "torch" in dict(asked) and "+" not in dict(asked)["torch"]
    assert "no known vulnerabilities" in capsys.readouterr().out


@pytest.mark.slow
def test_a_known_vulnerability_fails_unless_it_is_ignored(
    options: list[str],
    service: Callable[[Answers], str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = service(lambda name, _: (200, {"vulns": [FLAW]} if name == "pillow" else {}))
    assert audit.main([*options, url]) == 1
    out = capsys.readouterr().out
    assert "pillow " in out and "PYSEC-2026-1, mended in 99.0" in out
    monkeypatch.setitem(audit.IGNORED, "PYSEC-2026-1", "made up")
    assert audit.main([*options, url]) == 0
    assert "ignored: PYSEC-2026-1 (made up)" in capsys.readouterr().out


def test_a_service_that_cannot_be_asked_is_said_in_one_line(
    options: list[str], service: Callable[[Answers], str], capsys: pytest.CaptureFixture[str]
) -> None:
    broken = service(lambda *_: (500, {}))
    for url in ("http://127.0.0.1:1/", broken):
        assert audit.main([*options, url]) == 0
        (line,) = capsys.readouterr().out.splitlines()
        assert line.startswith("audit: not done, since the advisory service cannot be asked: ")


def test_an_index_without_advisories_is_no_all_clear(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """pip-audit itself then says that nothing is known, and ends with 0."""
    skipped = {"dependencies": [{"name": "pillow", "skip_reason": "not found"}], "fixes": []}

    def run(*_: Any, **__: Any) -> Any:
        return subprocess.CompletedProcess([], 0, stdout=json.dumps(skipped), stderr="")

    monkeypatch.setattr(subprocess, "run", run)
    assert audit.main([]) == 0
    assert capsys.readouterr().out.startswith("audit: not done, since the advisory service knows")


def test_pip_audits_own_failure_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.main(["--no-such-option"]) == 2
    assert "--no-such-option" in capsys.readouterr().err
